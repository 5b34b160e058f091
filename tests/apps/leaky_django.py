"""leaky.py's application, in Django, with its settings in this file."""

import os
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from leak import leak

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="no secret", USE_TZ=True)


def root(request):
    leak()
    return HttpResponse(str(os.getpid()))


def pid(request):
    return HttpResponse(str(os.getpid()))


def slow(request, seconds):
    time.sleep(float(seconds))
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("", root), path("pid", pid), path("slow/<seconds>", slow)]
app = get_wsgi_application()
