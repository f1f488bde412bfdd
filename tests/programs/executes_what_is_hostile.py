"""Reads all that there is in two databases, and executes what can be executed, under an audit hook.

After what has been done once with harmless data, nothing is imported or started, and no code is
made of what came from the database (attrs, cattrs and traceback compile code of durably's own).
"""

import sys

import attrs

import durably
from durably.testing import check

watching = []
caught = []
FORBIDDEN = (
    "import",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "marshal.loads",
    "ctypes.dlopen",
    "code.__new__",
)


def audit(event, arguments):
    if not watching:
        return
    is_hostile = event in ("compile", "exec") and any(
        word in str(arguments) for word in ("touch", "executed", "jndi", "passwd", "__import__")
    )
    if event in FORBIDDEN or is_hostile:
        caught.append((event, str(arguments)[:200]))


sys.addaudithook(audit)


@attrs.define
class Login:
    user: str


@durably.job("known")
def known(step, payload):
    return step.run("echo", lambda: payload)


@durably.job("typed")
def typed(step, payload: Login) -> Login:
    return step.run("echo", Login, payload.user)


def read_all(path):
    told = []
    app = durably.Durably(path, jobs=[known, typed])
    app.on("*", told.append)
    try:
        app.run_until_idle()
        for run in app.get_runs():
            str(run), str(run.error), run.payload, run.output, run.labels, run.progress
            app.get_steps(run), app.get_logs(run), app.count_runs(job_name=run.job_name)
            shown = [app, run, app.get_runs(), run.steps, run.logs, *run.steps, *run.logs]
            shown += [run.items(step.name) for step in run.steps if step.items]
            for each in shown:
                each._repr_mimebundle_()
            app.get_runs().to_dict(), run.steps.to_dict(), app.to_dict()
            for call in (app.retry, app.retrigger, app.cancel, app.wait):
                try:
                    call(run)
                except durably.DurablyError as exc:
                    str(exc)
        app.run_until_idle()
        for run in app.get_runs():
            if run.is_terminal:
                list(app.subscribe(run))
        app.purge_runs(older_than=0)
    finally:
        app.close()
    return check(path)


read_all(sys.argv[1])
watching.append(True)
found = read_all(sys.argv[2])
watching.clear()
print(caught)
assert caught == [], caught
