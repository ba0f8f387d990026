"""All pages, and the files that they load."""

from fastapi import FastAPI

from app.pages import compare, job, jobs, signing_in, submit
from app.pages.static_files import add_static_files


def add_pages(app: FastAPI) -> None:
    for module in (signing_in, jobs, job, submit, compare):
        app.include_router(module.router)
    add_static_files(app)
