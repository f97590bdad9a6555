"""Binds two TCP sockets and becomes a program that finds them as a service manager hands them over: socket_activation.py
NAMES PROGRAM ARGUMENT... Prints the ports first."""
import os, socket, sys

names, program = sys.argv[1], sys.argv[2:]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[each.getsockname()[1] for each in sockets], file=sys.stderr, flush=True)
# Out of the way of 3 and 4 first.
copies = [os.dup2(each.fileno(), 30 + index) for index, each in enumerate(sockets)]
for each in sockets:
    each.close()
for index, copy in enumerate(copies):
    os.dup2(copy, 3 + index)
    os.close(copy)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(program[0], program)
