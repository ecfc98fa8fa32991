"""``twistd mezite-auth``: the plugin, and nothing else.

twistd imports every plugin to list its name, so the server itself is imported
only when its sub-command is chosen.
"""

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IServiceMaker)
class _MeziteAuth:
    tapname = "mezite-auth"
    description = "Mezite's auth server: machine identities for SSH."

    @property
    def options(self):
        from mezite.cli.start import load

        return load("mezite.tap_options").Options

    @staticmethod
    def makeService(options):
        from mezite.tap import makeService

        return makeService(options)


mezite_auth = _MeziteAuth()
