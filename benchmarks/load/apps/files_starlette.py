"""A folder of files served by Starlette; the folder's name is in the environment."""

import os

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount("/", StaticFiles(directory=os.environ["PUBLIC_FOLDER"]))])
