"""The application on a real socket of loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from deepidea.detection.store import Store
from deepidea.web.app import create_app


@contextlib.contextmanager
def served(store: Store, **options: Any) -> Iterator[tuple[str, Any]]:
    """Yield address and application of a server over a store; its streams end, then it does."""
    app = create_app(store, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            app.state.live.stop()
            server.should_exit = True
            thread.join(10)
