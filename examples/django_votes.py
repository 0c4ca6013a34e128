"""A vote in Django: the views and sessions are Django's, the news comes by WebSocket.

Run `python -m iodine_aio examples/django_votes.py`, and open http://127.0.0.1:3000 in two
windows.
"""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

import iodine_aio

PAGE = """<!doctype html><title>Vote</title>
<button>tea</button> <button>coffee</button> <output></output>
<script>
const socket = new WebSocket(location.href.replace("http", "ws") + "news");
socket.onmessage = (event) => document.querySelector("output").value = event.data;
for (const button of document.querySelectorAll("button"))
  button.onclick = () => socket.send(button.textContent);
</script>"""

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="change me",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
votes: list[str] = []


class Voter(iodine_aio.WebSocket):  # its callbacks run in threads: they may use the ORM
    def on_open(self) -> None:
        self.write(f"tea {votes.count('tea')}, coffee {votes.count('coffee')}")

    def on_message(self, data: str | bytes) -> None:
        votes.append(str(data))
        iodine_aio.WebSocket.each(lambda voter: voter.on_open())


def page(request: HttpRequest) -> HttpResponse:
    request.session["seen"] = True
    return HttpResponse(PAGE)


def news(request: HttpRequest) -> HttpResponse:
    if "seen" not in request.session:
        return HttpResponse("open the page first", status=403)
    request.META["upgrade.websocket"] = Voter
    return HttpResponse()


urlpatterns = [path("", page), path("news", news)]
app = get_wsgi_application()
