#!/usr/bin/env bash
# Starts one node and ends when it ends: PID 1 of the container, and what scripts/cluster runs.
#
#   member, state-machine and raft are started together; each waits by itself for what it needs of the others.
#   state-machine dies      started again after 0.2 s, doubling to 5 s: raft goes on voting and replicating meanwhile
#   raft or member dies     the node ends with that exit code: a node without either is none
#   exit code 75            the node was retired and must take a new identity: all three are started again, and
#                           each moves its retired folder aside first
#   SIGTERM or SIGINT       raft first and alone, for it may hand over its leadership or leave the cluster, then the
#                           other two; the node ends with raft's exit code
#
#   BIN_DIR        folder of the three programs; by default this script's own, or /usr/local/bin
#   NODE_PID_DIR   if set, a file init, member, state-machine, raft in it for each process that runs:
#                  its pid, and its start time in clock ticks since boot, which tells it from a later owner of the pid
set -u

readonly RETIRED=75
# How long raft may take to hand over or leave. docker-compose.yml's stop_grace_period must be longer.
readonly RAFT_GRACE_S=25
readonly OTHERS_GRACE_S=3
readonly BACK_OFF_MIN_MS=200
readonly BACK_OFF_MAX_MS=5000
# Who has run for as long starts again with the smallest back-off.
readonly STEADY_S=30
# How often the children are looked at when nothing wakes the script. Bash 3.2 (macOS) has no `wait -n`: there it is
# how long a death may go unseen.
if [ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 403 ]; then
  readonly HAS_WAIT_FOR_ANY=yes TICK_S=5
else
  readonly HAS_WAIT_FOR_ANY=no TICK_S=0.5
fi

if [ -z "${BIN_DIR:-}" ]; then
  BIN_DIR=$(cd "$(dirname "$0")" && pwd)
  [ -x "$BIN_DIR/raft" ] || BIN_DIR=/usr/local/bin
fi
for program in member state-machine raft; do
  if [ ! -x "$BIN_DIR/$program" ]; then
    echo "init: there is no program $BIN_DIR/$program. Build it (cargo build --release --bins) and name its folder: BIN_DIR=target/release $0" >&2
    exit 1
  fi
done

# Pids of the children, empty while they do not run. The three timers are children too: `sleep`.
member='' state_machine='' raft='' back_off='' deadline='' tick=''
terminated=no
started_at=0 state_machine_started_at=0
state_machine_back_off_ms=$BACK_OFF_MIN_MS restart_back_off_ms=$BACK_OFF_MIN_MS

say() {
  if [ "${BASH_VERSINFO[0]}" -ge 5 ]; then
    TZ=UTC printf '%(%Y-%m-%dT%H:%M:%SZ)T  INFO init: %s\n' -1 "$*"
  else
    printf 'INFO init: %s\n' "$*"
  fi
}

record() { # NAME PID
  local stat
  if [ -z "${NODE_PID_DIR:-}" ]; then return; fi
  if stat=$(cat "/proc/$2/stat" 2>/dev/null); then
    # The second field is the program's name in parentheses and may hold spaces; the start time is the 22nd.
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- "$1" "$2" $stat
    echo "$2 ${22}" >"$NODE_PID_DIR/$1"
  else
    echo "$2 $(ps -o lstart= -p "$2" | tr -s ' ' _)" >"$NODE_PID_DIR/$1"
  fi
}

forget() { if [ -n "${NODE_PID_DIR:-}" ]; then rm -f "$NODE_PID_DIR/$1"; fi; }

send() { # SIGNAL PID
  if [ -n "$2" ]; then kill -s "$1" "$2" 2>/dev/null || true; fi
}

seconds() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); } # of milliseconds

doubled() { # MILLISECONDS
  if [ $(($1 * 2)) -lt $BACK_OFF_MAX_MS ]; then echo $(($1 * 2)); else echo $BACK_OFF_MAX_MS; fi
}

start_state_machine() {
  "$BIN_DIR/state-machine" &
  state_machine=$!
  state_machine_started_at=$SECONDS
  record state-machine "$state_machine"
}

start_node() {
  started_at=$SECONDS
  "$BIN_DIR/member" &
  member=$!
  record member "$member"
  start_state_machine
  "$BIN_DIR/raft" &
  raft=$!
  record raft "$raft"
}

# Waits until a child has ended: sets `ended` to its pid and `code` to its exit code. Returns with `ended`
# empty when a signal came instead.
#
# `wait -n` alone is not enough: bash forgets a child that was killed as soon as it has printed so, which may
# be just before `wait -n` begins. So the children are looked at each time, and the tick bounds that one gap.
await_child() {
  local pid running
  ended='' code=0
  while :; do
    running=" $(jobs -rp | tr '\n' ' ')"
    for pid in $member $state_machine $raft $back_off $deadline; do
      case $running in
      *" $pid "*) ;;
      *)
        ended=$pid
        wait "$pid"
        code=$?
        return
        ;;
      esac
    done
    if [ -z "$tick" ] || [ "${running#* "$tick" }" = "$running" ]; then
      sleep $TICK_S &
      tick=$!
    fi
    if [ $HAS_WAIT_FOR_ANY = yes ]; then wait -n; else wait "$tick"; fi
    if [ $terminated = yes ] && [ -z "$deadline" ]; then return; fi
  done
}

# Forgets an ended child and says so. `name` is empty if it was a timer.
note_end() {
  name=''
  case $ended in
  "$raft") name=raft raft='' ;;
  "$member") name=member member='' ;;
  "$state_machine") name=state-machine state_machine='' ;;
  "$back_off") back_off='' ;;
  "$deadline") deadline='' ;;
  esac
  if [ -n "$name" ]; then
    forget "$name"
    if [ "$code" -gt 128 ]; then
      say "$name was killed by signal $((code - 128))"
    else
      say "$name ended with exit code $code"
    fi
  fi
}

# shellcheck disable=SC2317 # called by the trap
on_termination() {
  if [ "$terminated" = no ]; then
    terminated=yes
    say "asked to stop: raft first, it has $RAFT_GRACE_S s to hand over"
    send TERM "$raft"
  fi
}
trap on_termination TERM INT

# Runs until raft or member has ended; sets `first_code` to its exit code. The state machine is kept alive meanwhile.
supervise() {
  while :; do
    if [ $terminated = yes ] && [ -z "$deadline" ]; then
      sleep $RAFT_GRACE_S &
      deadline=$!
    fi
    await_child
    if [ -z "$ended" ]; then continue; fi
    if [ "$ended" = "$deadline" ]; then
      say "raft did not end within $RAFT_GRACE_S s: killed"
      send KILL "$raft"
    elif [ "$ended" = "$back_off" ]; then
      back_off=''
      start_state_machine
      say "state-machine started again, pid $state_machine"
      continue
    fi
    note_end
    case $name in
    raft | member)
      first_code=$code
      return
      ;;
    state-machine)
      if [ $((SECONDS - state_machine_started_at)) -ge $STEADY_S ]; then state_machine_back_off_ms=$BACK_OFF_MIN_MS; fi
      say "state-machine starts again in $(seconds "$state_machine_back_off_ms") s"
      sleep "$(seconds "$state_machine_back_off_ms")" &
      back_off=$!
      state_machine_back_off_ms=$(doubled "$state_machine_back_off_ms")
      ;;
    esac
  done
}

# Waits for raft alone (argument "raft") or for all three, then kills who is late.
await_end() {
  local late=$2
  if [ -z "$deadline" ]; then
    sleep "$late" &
    deadline=$!
  fi
  while [ -n "$raft" ] || { [ "$1" = all ] && [ -n "$member$state_machine" ]; }; do
    await_child
    if [ -z "$ended" ]; then continue; fi
    if [ "$ended" = "$deadline" ]; then
      say "not ended within $late s: killed"
      send KILL "$raft"
      if [ "$1" = all ]; then
        send KILL "$member"
        send KILL "$state_machine"
      fi
    fi
    if [ "$ended" = "$raft" ]; then raft_code=$code; fi
    note_end
  done
  if [ -n "$deadline" ]; then
    send KILL "$deadline"
    wait "$deadline" 2>/dev/null
    deadline=''
  fi
}

# Ends what is left of the node, raft first. `raft_code` is set if raft was among it.
stop_node() {
  if [ -n "$back_off" ]; then
    send KILL "$back_off"
    wait "$back_off" 2>/dev/null
    back_off=''
  fi
  if [ -n "$raft" ]; then
    send TERM "$raft"
    await_end raft $RAFT_GRACE_S
  elif [ -n "$deadline" ]; then
    send KILL "$deadline"
    wait "$deadline" 2>/dev/null
    deadline=''
  fi
  send TERM "$state_machine"
  send TERM "$member"
  await_end all $OTHERS_GRACE_S
}

# scripts/cluster has recorded it already.
if [ -n "${NODE_PID_DIR:-}" ] && [ ! -s "$NODE_PID_DIR/init" ]; then record init $$; fi
while :; do
  first_code=0 raft_code=''
  start_node
  if [ $terminated = yes ]; then send TERM "$raft"; fi
  supervise
  if [ "$name" = raft ]; then raft_code=$first_code; fi
  stop_node
  if [ $terminated = yes ]; then
    code=${raft_code:-$first_code}
    break
  fi
  if [ "$first_code" != $RETIRED ] && [ "$raft_code" != $RETIRED ]; then
    code=$first_code
    break
  fi
  if [ $((SECONDS - started_at)) -ge $STEADY_S ]; then restart_back_off_ms=$BACK_OFF_MIN_MS; fi
  say "this node was retired: it starts again under a new identity in $(seconds "$restart_back_off_ms") s"
  sleep "$(seconds "$restart_back_off_ms")" &
  wait $!
  restart_back_off_ms=$(doubled "$restart_back_off_ms")
  if [ $terminated = yes ]; then
    code=$RETIRED
    break
  fi
done
forget init
say "the node ends with exit code $code"
exit "$code"
