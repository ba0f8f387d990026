"""All pages, and the files that they load."""

from fastapi import FastAPI

from app.pages import adapters, compare, datasets, job, jobs, keys, playground, rows, signing_in, submit, workers
from app.pages.static_files import add_static_files


def add_pages(app: FastAPI) -> None:
    for module in (signing_in, jobs, job, rows, submit, compare, playground, datasets, adapters, workers, keys):
        app.include_router(module.router)
    add_static_files(app)
