"""A Django site on ``manage.py runserver``, which gets a server with the mix-in by ``server_cls``."""

# Django has no annotations.
# mypy: disable-error-code="import-untyped, misc"

from __future__ import annotations

import sys

import django
from django.conf import settings
from django.core.management.commands.runserver import Command as RunServer
from django.core.servers.basehttp import WSGIServer
from django.http import HttpRequest, HttpResponse
from django.urls import path

from .blocking import Listening


class Server(Listening, WSGIServer):
    pass


class Command(RunServer):
    server_cls = Server


def who_am_i(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.META["REMOTE_ADDR"])


urlpatterns = [path("whoami", who_am_i)]

if __name__ == "__main__":
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="a test's",
    )
    django.setup()
    Command(stdout=sys.stderr).run_from_argv(["manage.py", "runserver", "--noreload", "127.0.0.1:0"])
