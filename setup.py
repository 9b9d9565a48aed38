"""The compiled twin of the engine: built when a C compiler is there, left out when not. Everything else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "sslconnector._engine._pump",
            ["sslconnector/_engine/_pump.c", "sslconnector/_engine/_lane.c"],
            depends=["sslconnector/_engine/_pump.h"],
            optional=True,
        )
    ]
)
