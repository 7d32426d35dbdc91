"""What Python imports when an interpreter starts under `proxyprotocol run`, before it runs the command.

Any Python must be able to read it: an older one would report a syntax error, and go on without us.
"""

# After each failure the process ends here. Python would go on after an exception, and show a traceback for SystemExit.
import os
import sys

try:
    from proxyprotocol.run.switch import run_next, switch_on
except BaseException:
    error = sys.exc_info()[1]
    sys.stderr.write(
        "proxyprotocol run: %s cannot import proxyprotocol[run] (%s: %s): install it there, or run a command of the "
        "Python that has it\n" % (sys.executable, type(error).__name__, error)
    )
    sys.stderr.flush()
    os._exit(3)
try:
    switch_on()
except BaseException:
    error = sys.exc_info()[1]
    sys.stderr.write("proxyprotocol run: cannot begin (%s: %s)\n" % (type(error).__name__, error))
    sys.stderr.flush()
    os._exit(3)
run_next(__file__)
