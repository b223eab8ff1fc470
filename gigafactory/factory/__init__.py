"""The running factory without a clock, a network or a disk: event in, commands out."""

from gigafactory.factory.core import Command, Factory, Replace, Start, Stop, Tenant, Wake

__all__ = ["Command", "Factory", "Replace", "Start", "Stop", "Tenant", "Wake"]
