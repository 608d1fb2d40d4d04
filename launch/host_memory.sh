# shellcheck shell=bash disable=SC2034
# What KEEP_MEMORY asks for, as settings for `env`; sourced by local.sh. XLA frees what a
# step computed in and asks for the same again at the next step; a C library that returns
# it to the system in between has its pages cleared and faulted in anew. For training and
# inference on CPUs under Linux. A value that your environment has already stays.
#
# KEEP_MEMORY=glibc     settings of glibc 2.35 or later; no library
# KEEP_MEMORY=jemalloc  jemalloc instead (Debian: libjemalloc2)
# KEEP_MEMORY=mimalloc  mimalloc instead (Debian: libmimalloc2.0)
# KEEP_MEMORY=own       host_memory.c, and huge pages by glibc; needs a C compiler once
kept=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776
preload= tunables= settings=()
case ${KEEP_MEMORY:-} in
    "") ;;
    glibc) tunables=glibc.malloc.hugetlb=1:$kept ;;
    jemalloc)
        preload=libjemalloc.so.2
        settings+=("MALLOC_CONF=${MALLOC_CONF:-thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1}")
        ;;
    mimalloc)
        preload=libmimalloc.so.2
        settings+=("MIMALLOC_LARGE_OS_PAGES=${MIMALLOC_LARGE_OS_PAGES:-1}")
        settings+=("MIMALLOC_ALLOW_DECOMMIT=${MIMALLOC_ALLOW_DECOMMIT:-0}")
        ;;
    own)
        tunables=glibc.malloc.hugetlb=1
        preload=$PWD/launch/host_memory.so
        if [ ! "$preload" -nt launch/host_memory.c ]; then
            # Under another name first: a library in use is not written to.
            "${CC:-cc}" -O2 -shared -fPIC -pthread -o "$preload.$$" launch/host_memory.c -ldl
            mv "$preload.$$" "$preload"
        fi
        ;;
    *)
        echo "launch: KEEP_MEMORY=$KEEP_MEMORY: expected glibc, jemalloc, mimalloc or own" >&2
        exit 1
        ;;
esac
# The loader takes spaces and colons for the ends of a path, and goes on without a library
# that it does not find.
if [ -n "$preload" ] && [ -z "${LD_PRELOAD+set}" ]; then
    if [[ $preload == *[\ :$'\t\n$']* ]]; then
        echo "launch: KEEP_MEMORY=$KEEP_MEMORY: expected a path without spaces, colons and dollars, not $preload" >&2
        exit 1
    fi
    if [ -n "$(LD_PRELOAD=$preload /bin/true 2>&1)" ]; then
        echo "launch: KEEP_MEMORY=$KEEP_MEMORY: $preload was not found" >&2
        exit 1
    fi
    settings+=("LD_PRELOAD=$preload")
fi
if [ -n "$tunables" ] && [ -z "${GLIBC_TUNABLES+set}" ]; then
    settings+=("GLIBC_TUNABLES=$tunables")
fi
