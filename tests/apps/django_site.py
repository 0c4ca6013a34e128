"""A Django site in one module: its settings, which a process has once, and its views."""

from typing import Any

from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={},
        LOGGING_CONFIG=None,
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY="only for tests",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    )

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from tests.apps.talking import Talking


def hello(request: Any) -> Any:
    return HttpResponse("hello")


@csrf_exempt
def echo(request: Any) -> Any:
    return HttpResponse(request.POST["word"] if request.POST else request.body)


def stream(request: Any) -> Any:
    return StreamingHttpResponse(str(number) for number in range(3))


def chat(request: Any) -> Any:
    if "name" not in request.GET:
        return HttpResponse("who are you?", status=401)
    if request.GET["name"] == "nobody":
        return HttpResponseRedirect("/login")
    request.session["name"] = request.GET["name"]
    request.META["upgrade.websocket"] = Talking(request.GET["name"])
    return HttpResponse("never seen")


class Hello:
    def on_open(self, client: Any) -> None:
        client.write("hello " + client.env["QUERY_STRING"])
        client.close()


def events(request: Any) -> Any:
    request.session["name"] = "Ada"
    request.META["rack.upgrade"] = Hello()
    return HttpResponse("never seen")


urlpatterns = [
    path("", hello),
    path("echo", echo),
    path("stream", stream),
    path("chat", chat),
    path("events", events),
]
application = get_wsgi_application()
