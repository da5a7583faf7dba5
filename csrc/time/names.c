/* Names of hosts, and hosts of names. libc may ask a name server for them and waits inside calls of its own, for
 * milliseconds or for several seconds; what they cost is the network's affair, not the run's. So a look-up counts
 * as running: the clock stands still until the answer is there, and a run is the same beside a slow name server. */
#include "internal.h"

#include <netdb.h>

#define RVT_LOOK_UP(call)      \
  ({                           \
    rvt_internal_begin();      \
    __auto_type found_ = call; \
    int error_ = errno;        \
    rvt_internal_end();        \
    errno = error_;            \
    found_;                    \
  })

RVT_EXPORT int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                           struct addrinfo **list) {
  if (!rvt_on()) return rvt_real.getaddrinfo(node, service, hints, list);
  return RVT_LOOK_UP(rvt_real.getaddrinfo(node, service, hints, list));
}

RVT_EXPORT int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_bytes,
                           char *service, socklen_t service_bytes, int flags) {
  if (!rvt_on()) return rvt_real.getnameinfo(address, length, host, host_bytes, service, service_bytes, flags);
  return RVT_LOOK_UP(rvt_real.getnameinfo(address, length, host, host_bytes, service, service_bytes, flags));
}

RVT_EXPORT struct hostent *gethostbyname(const char *name) {
  if (!rvt_on()) return rvt_real.gethostbyname(name);
  return RVT_LOOK_UP(rvt_real.gethostbyname(name));
}

RVT_EXPORT struct hostent *gethostbyname2(const char *name, int family) {
  if (!rvt_on()) return rvt_real.gethostbyname2(name, family);
  return RVT_LOOK_UP(rvt_real.gethostbyname2(name, family));
}

RVT_EXPORT struct hostent *gethostbyaddr(const void *address, socklen_t length, int family) {
  if (!rvt_on()) return rvt_real.gethostbyaddr(address, length, family);
  return RVT_LOOK_UP(rvt_real.gethostbyaddr(address, length, family));
}

RVT_EXPORT int gethostbyname_r(const char *name, struct hostent *host, char *buffer, size_t bytes,
                               struct hostent **result, int *problem) {
  if (!rvt_on()) return rvt_real.gethostbyname_r(name, host, buffer, bytes, result, problem);
  return RVT_LOOK_UP(rvt_real.gethostbyname_r(name, host, buffer, bytes, result, problem));
}

RVT_EXPORT int gethostbyname2_r(const char *name, int family, struct hostent *host, char *buffer, size_t bytes,
                                struct hostent **result, int *problem) {
  if (!rvt_on()) return rvt_real.gethostbyname2_r(name, family, host, buffer, bytes, result, problem);
  return RVT_LOOK_UP(rvt_real.gethostbyname2_r(name, family, host, buffer, bytes, result, problem));
}

RVT_EXPORT int gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *host, char *buffer,
                               size_t bytes, struct hostent **result, int *problem) {
  if (!rvt_on()) return rvt_real.gethostbyaddr_r(address, length, family, host, buffer, bytes, result, problem);
  return RVT_LOOK_UP(rvt_real.gethostbyaddr_r(address, length, family, host, buffer, bytes, result, problem));
}
