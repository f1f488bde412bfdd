"""Classes that stand in for those of the datetime module, as a test that freezes time has them."""

import datetime as dt

DATE, DATETIME = dt.date, dt.datetime


class AlikeDate(type):
    def __instancecheck__(cls, value):
        return isinstance(value, DATE)


class Alike(type):
    def __instancecheck__(cls, value):
        return isinstance(value, DATETIME)


class Both(Alike, AlikeDate):
    pass


class FakeDate(DATE, metaclass=AlikeDate):
    pass


class FakeDatetime(DATETIME, FakeDate, metaclass=Both):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 28, 12, fold=1, tzinfo=tz)
