"""Mezite's package: the auth server (a twistd plugin), mezd, mezctl and msh."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "mezite/__init__.py").read_text())[1]

# The site of docs/ (bin/docs).
DOCS = ["mkdocs-material>=9.6,<10"]

setup(
    name="mezite",
    version=VERSION,
    description="Machine identity for SSH: short-lived OpenSSH certificates that renew themselves",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # twisted.plugins is Twisted's own package: our one module is laid beside its own.
    packages=[*find_packages(include=["mezite", "mezite.*"]), "twisted.plugins"],
    package_data={
        "mezite": ["py.typed"],
        "mezite.storage": ["schema/*.sql"],
        "mezite.proto": ["mezite/v1/*.proto", "mezite/v1/*.pyi"],
    },
    # Man pages, where bin/man has written them.
    data_files=[("share/man/man1", sorted(f"man/{page.name}" for page in (HERE / "man").glob("*.1")))],
    zip_safe=False,
    install_requires=[
        # Conch's private names are used in one file; its tests fail when they move.
        "Twisted[conch,tls]>=26.10,<27",
        "cryptography>=48",
        "grpcio>=1.85.1,<2",
        "grpcio-health-checking>=1.85.1,<2",
        "grpcio-reflection>=1.85.1,<2",
        "protobuf>=7.36,<8",
        # The text of /metrics; loaded where diagnostics are served.
        "prometheus-client>=0.20",
        "txaio>=23",
        "click>=8.1",
        # Records: dataclasses of the same form take 50 times as long to define and ten to make.
        # Before 0.21 a record that is changed is not checked again (replace runs no __post_init__).
        "msgspec>=0.21",
        "PyYAML>=6",
    ],
    extras_require={
        # database.driver: postgres
        "postgres": ["psycopg[binary]>=3.2,<4"],
        "docs": DOCS,
        "dev": [
            *DOCS,
            # Clients that tests/system/test_clients.py logs in with.
            "ansible-core>=2.17",
            "paramiko>=3.5",
            "asyncssh>=2.21",
            "build",
            # Schemas of what docs/examples has for GitHub, GitLab, Docker and Kubernetes.
            "check-jsonschema>=0.33",
            "kubernetes-validate>=1.31",
            "grpc-stubs",
            "grpcio-tools==1.85.1",
            "hypothesis>=6.100",
            "mypy-zope>=1.0.17",
            "psycopg[binary]>=3.2,<4",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "types-protobuf",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "mezd = mezite.cli.start:mezd",
            "mezctl = mezite.cli.start:mezctl",
            "msh = mezite.cli.start:msh",
        ],
    },
    classifiers=[
        "Framework :: Twisted",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Systems Administration :: Authentication/Directory",
    ],
)
