"""Every log line is one JSON object that says who, which job and what, and gives no secret away."""

import json
from pathlib import Path

from farm.ops.logging import start_log


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_names_process_job_epoch_and_event(tmp_path: Path):
    log = start_log("worker", tmp_path).bind(job="j1", epoch=2)
    log.info("stage_started", stage="denoise")
    log.debug("not_shown")
    (line,) = _lines(tmp_path / "worker.log")
    assert line["time"]
    assert line["pid"]
    assert [line[k] for k in ("level", "process", "job", "epoch", "event", "stage")] == [
        "INFO", "worker", "j1", 2, "stage_started", "denoise",
    ]  # fmt: skip


def test_secrets_are_masked(tmp_path: Path):
    log = start_log("api", tmp_path)
    log.info("connected", url="postgresql://farm:hunter2@db/farm", auth_token="hunter2")
    log.info("connected", url="postgresql://db/farm?user=farm&password=hunter2&sslmode=require")
    log.info("sent", url="http://s3/farm/v.mp4?X-Amz-Expires=60&X-Amz-Signature=hunter2")
    try:
        raise RuntimeError("a fault")
    except RuntimeError as error:
        log.error("failed", error, database="postgresql://farm:hunter2@db/farm")
    assert "hunter2" not in (tmp_path / "api.log").read_text()
    assert "a fault" in str(_lines(tmp_path / "api.log")[-1]["traceback"])
