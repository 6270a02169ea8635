"""Answers /readyz once the dispatcher listens, as the real API does; for tests of the supervisor only."""

from http.server import BaseHTTPRequestHandler, HTTPServer

from farm.cluster.poke import dispatcher_listens
from farm.settings import load_settings

SETTINGS = load_settings()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if dispatcher_listens(SETTINGS) else 503)
        self.end_headers()


HTTPServer((SETTINGS.host, SETTINGS.port), Answer).serve_forever()
