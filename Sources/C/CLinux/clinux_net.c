#define _GNU_SOURCE
#include "clinux_net.h"
#include <sys/socket.h>

int clinux_accept(int listener) { return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

int clinux_stream_socket(int family) { return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

void clinux_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }
