"""The words of the page: what each state and stage is called, prompts to begin with, and the workers' view."""

import itertools
import random

from farm.domain.states import JobState

STATES: dict[JobState, str] = {
    JobState.RUNNING: "Rendering",
    JobState.LEASED: "Starting",
    JobState.QUEUED: "Waiting",
    JobState.SCHEDULED: "Scheduled",
    JobState.HELD: "On hold",
    JobState.SUCCEEDED: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}

STAGES = {
    "loading": "loading the model",
    "text": "reading the prompt",
    "image": "reading the image",
    "denoise": "denoising",
    "decode": "decoding frames",
    "encode": "encoding the video",
    "upload": "saving",
}

STAGES_ZH = {
    "loading": "加载模型",
    "text": "读取提示词",
    "image": "读取图片",
    "denoise": "去噪",
    "decode": "解码帧",
    "encode": "编码视频",
    "upload": "保存",
}

# A chip of the page and the states behind it.
CHIPS: dict[str, tuple[str, tuple[JobState, ...]]] = {
    "running": ("Rendering", (JobState.RUNNING, JobState.LEASED)),
    "queued": ("Waiting", (JobState.QUEUED, JobState.SCHEDULED)),
    "held": ("On hold", (JobState.HELD,)),
    "succeeded": ("Done", (JobState.SUCCEEDED,)),
    "failed": ("Failed", (JobState.FAILED,)),
    "cancelled": ("Cancelled", (JobState.CANCELLED,)),
}

# The demo model knows a small world: say what is in it.
_COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_SHAPES = ("circle", "square", "triangle", "star", "ring")
_MOTIONS = ("moving to the left", "moving to the right", "moving up", "moving down", "growing", "shrinking")
_BACKGROUNDS = ("black", "white", "grey", "beige")
_CHINESE = (
    "一个大的红色圆形在黑色背景上向右移动",
    "一个蓝色的星形在白色背景上变大",
    "黄色三角形在灰色背景上向上移动",
)


def ideas(count: int = 24) -> list[str]:
    """Prompts the demo model understands, a different handful each time."""
    worlds = list(itertools.product(("small", "large"), _COLOURS, _SHAPES, _MOTIONS, _BACKGROUNDS))
    drawn = random.sample(worlds, count - len(_CHINESE))
    english = [f"a {s} {c} {shape} {m} on a {b} background" for s, c, shape, m, b in drawn]
    return [*english[:2], _CHINESE[0], *english[2:], *_CHINESE[1:]]


# -- the workers' view, in the languages that it speaks ----------------------------------------------------------

LANGUAGES = {"en": "English", "zh": "中文"}


def language(asked: str | None, kept: str | None, accepted: str) -> str:
    """What was just asked for, else what was chosen before, else what the browser prefers."""
    for one in (asked, kept, *(part.partition(";")[0].strip()[:2].lower() for part in accepted.split(","))):
        if one in LANGUAGES:
            return one
    return "en"


WORKERS: dict[str, dict[str, str]] = {
    "en": {
        "skip": "Skip to content", "theme": "Dark or light", "shortcuts": "Keyboard shortcuts", "jobs": "Jobs",
        "title": "Workers", "none": "No worker yet",
        "none_help": "Jobs wait until one is there. A farm starts its own; other machines join with",
        "node": "Node", "actions": "Actions for", "yes_lost": "Give it back now", "no": "Leave it",
        "idle": "idle", "busy": "rendering", "starting": "loading the model", "gone": "gone",
        "done": "done", "memory": "Memory", "of": "of", "models": "Models", "heard": "last heard",
        "process": "process", "tags": "Tags", "pool": "pool",
        "drain": "Drain", "drain_now": "Drain now", "restart": "Restart", "restart_now": "Restart now",
        "resume": "Resume", "quarantine_1h": "Quarantine for 1 hour", "quarantine": "Quarantine until released",
        "release": "Release from quarantine",
        "wish_drain": "draining", "wish_restart": "restarting", "wish_quarantine": "set aside",
        "wish_now": "the job in hand goes back into the queue", "wish_later": "the job in hand is finished first",
        "wish_none": "takes no jobs", "wish_of_node": "wished of the whole node", "by": "by", "since": "since",
        "set_aside": "In quarantine", "until": "until", "then_probe": "then a probe decides",
        "until_released": "until somebody releases it", "probed": "last probe", "no_worker_on": "no worker on it",
        "lose_title": "Give the job in hand back?",
        "lose": "What has been rendered of it is lost; another worker begins it anew. Its job: ",
        "lose_node_title": "Stop everything on this node?",
        "lose_node": "Jobs in hand go back into the queue, and what has been rendered of them is lost: ",
        "reason": "Reason", "reason_hint": "shown to everybody",
        "live": "live", "connecting": "connecting", "reconnecting": "reconnecting",
        "close": "Close", "keyboard": "Keyboard", "sign_out": "Sign out",
    },
    "zh": {
        "skip": "跳到内容", "theme": "深色或浅色", "shortcuts": "键盘快捷键", "jobs": "任务",
        "title": "工作进程", "none": "还没有工作进程",
        "none_help": "任务会一直等待。农场会启动自己的工作进程；其他机器这样加入：",
        "node": "节点", "actions": "操作：", "yes_lost": "立即交回", "no": "保持不变",
        "idle": "空闲", "busy": "渲染中", "starting": "正在加载模型", "gone": "已退出",
        "done": "已完成", "memory": "内存", "of": "/", "models": "模型", "heard": "最后心跳",
        "process": "进程", "tags": "标签", "pool": "池",
        "drain": "排空", "drain_now": "立即排空", "restart": "重启", "restart_now": "立即重启",
        "resume": "恢复", "quarantine_1h": "隔离 1 小时", "quarantine": "隔离，直到解除",
        "release": "解除隔离",
        "wish_drain": "排空中", "wish_restart": "重启中", "wish_quarantine": "已隔离",
        "wish_now": "手头的任务将退回队列", "wish_later": "先完成手头的任务",
        "wish_none": "不再接任务", "wish_of_node": "对整个节点设置", "by": "操作者", "since": "自",
        "set_aside": "隔离中", "until": "直到", "then_probe": "之后由自检决定",
        "until_released": "直到有人解除", "probed": "最近一次自检", "no_worker_on": "上面没有工作进程",
        "lose_title": "交回手头的任务？",
        "lose": "已渲染的部分会丢失，由其他工作进程重新开始。任务：",
        "lose_node_title": "停止该节点上的全部工作？",
        "lose_node": "手头的任务会退回队列，已渲染的部分会丢失：",
        "reason": "原因", "reason_hint": "所有人可见",
        "live": "实时", "connecting": "连接中", "reconnecting": "重新连接中",
        "close": "关闭", "keyboard": "键盘", "sign_out": "退出登录",
    },
}  # fmt: skip
