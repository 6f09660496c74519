#!/bin/sh
# Starts an SPDK target and sets up on it what the OPI compliance client expects of a storage array.
# A restarted target is empty and set up again; the bridge then restores what it was asked for.
#   SPDK_TGT   the target's program     SPDK_ARGS  its arguments
#   SPDK_RPC   SPDK's rpc.py            SPDK_RUN   the folder shared with the bridge
set -eu
run=${SPDK_RUN:-/var/run/spdk}
aio=${SPDK_AIO_FILE:-/tmp/aio_bdev_file}
address=${SPDK_ADDRESS:-$(hostname -i | cut -d' ' -f1)}
array=nqn.2016-06.io.spdk:cnode1
host=nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c

rpc() {
    "${SPDK_RPC:-rpc.py}" -s "$run/spdk.sock" "$@"
}

umask 077
mkdir -p "$run"
rm -f "$run/set-up" "$run/spdk.sock" "$run/spdk.sock.lock"
[ -f "$aio" ] || dd if=/dev/zero of="$aio" bs=512 count=2048 2>/dev/null
# The key that the OPI projects publish for their tests: no secret.
printf %s NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ: >"$run/array.psk"

# shellcheck disable=SC2086  # several arguments
"${SPDK_TGT:-spdk_tgt}" ${SPDK_ARGS:-} -r "$run/spdk.sock" -S "$run" &
target=$!
trap 'kill -TERM "$target" 2>/dev/null || true' TERM INT
until rpc spdk_get_version >/dev/null 2>&1; do
    kill -0 "$target" 2>/dev/null || { echo "the target ended at its start" >&2; exit 1; }
    sleep 0.5
done

# A target stands still for a second when its last vhost device goes: the client, which has 3 s for all its calls, makes and
# removes one after another.
rpc vhost_create_scsi_controller spare >/dev/null 2>&1 || echo "no vhost in this target: no virtio devices" >&2
# Targets before 24.01 take the key's file, later ones its name.
psk=array-psk
rpc keyring_file_add_key "$psk" "$run/array.psk" >/dev/null 2>&1 || psk=$run/array.psk
rpc nvmf_create_transport -t VFIOUSER >/dev/null 2>&1 || echo "no vfio-user in this target: no PCIe controllers" >&2
rpc <<END
nvmf_create_transport -t TCP
bdev_malloc_create -b Malloc1 64 512
bdev_malloc_create -b Malloc2 64 512
nvmf_create_subsystem $array -s SPDK00000000000001 -d Array
nvmf_subsystem_add_listener $array -t tcp -f ipv4 -a $address -s ${SPDK_PORT:-4444}
nvmf_subsystem_add_listener $array -t tcp -f ipv4 -a $address -s ${SPDK_TLS_PORT:-5555} --secure-channel
nvmf_subsystem_add_host $array $host --psk $psk
nvmf_subsystem_add_ns $array Malloc2 -n 3 --nguid ABCDEF0123456789ABCDEF0123456789
END
: >"$run/set-up"
echo "the target is set up: $array on $address"

# A signal ends the first wait; the second one waits for the target's own end.
wait "$target" || wait "$target"
