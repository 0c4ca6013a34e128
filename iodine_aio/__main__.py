"""`python -m iodine_aio`."""

from iodine_aio.cli import command

command()
