# shellcheck shell=bash disable=SC2034
# What KEEP_MEMORY asks for, as settings for `env`; sourced by local.sh. XLA frees what a
# step computed in and asks for the same again at the next step; a C library that returns
# it to the system in between has its pages cleared and faulted in anew. For training and
# inference on CPUs under Linux. A value that your environment has already stays.
#
# KEEP_MEMORY=glibc     settings of glibc 2.35 or later; no library
# KEEP_MEMORY=jemalloc  jemalloc instead (Debian: libjemalloc2)
settings=()
case ${KEEP_MEMORY:-} in
    "") ;;
    glibc)
        if [ -z "${GLIBC_TUNABLES+set}" ]; then
            tunables=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1
            tunables+=:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776
            settings+=("GLIBC_TUNABLES=$tunables")
        fi
        ;;
    jemalloc)
        if [ -z "${LD_PRELOAD+set}" ]; then
            library=libjemalloc.so.2
            # The loader goes on without a library that it does not find.
            if [ -n "$(LD_PRELOAD=$library /bin/true 2>&1)" ]; then
                echo "launch: KEEP_MEMORY=jemalloc: $library was not found" >&2
                exit 1
            fi
            settings+=("LD_PRELOAD=$library")
        fi
        if [ -z "${MALLOC_CONF+set}" ]; then
            settings+=("MALLOC_CONF=thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1")
        fi
        ;;
    *)
        echo "launch: KEEP_MEMORY=$KEEP_MEMORY: expected glibc or jemalloc" >&2
        exit 1
        ;;
esac
