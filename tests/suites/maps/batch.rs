//! Batch rows: `lookup_batch full count=2 in_batch=NULL`, `update_batch count=1 elem_flags=4`.

use bpf::uapi::Cmd;
use bpf::uapi::attr::MapBatch;
use kernel_model::syscall::UserSpace;

use crate::face::Face;
use crate::ops::{Answer, Made, World, is_percpu, key, plain_value};

fn field(rest: &str, name: &str) -> Option<u64> {
    let at = rest.split(' ').find_map(|w| w.strip_prefix(name)?.strip_prefix('='))?;
    at.parse().ok()
}

pub(crate) fn perform(
    face: &mut Face,
    m: Made,
    w: World,
    op: &str,
    rest: &str,
    flags: u64,
) -> Answer {
    let cmd = match op {
        "lookup_batch" => Cmd::MapLookupBatch,
        "lookup_and_delete_batch" => Cmd::MapLookupAndDeleteBatch,
        "update_batch" => Cmd::MapUpdateBatch,
        "delete_batch" => Cmd::MapDeleteBatch,
        other => panic!("unknown batch {other}"),
    };
    // Rows about flags ask for four elements.
    let count = field(rest, "count").unwrap_or(4) as u32;
    let map_flags = if rest.starts_with("flags=") { flags } else { 0 };
    let elem_flags = if rest.contains("elem_flags") { flags } else { 0 };
    let mut user = UserSpace::new();
    let value = m.value * if is_percpu(m.t) { face.cpus() } else { 1 };
    let n = count.max(4) as usize;
    let keyed = if m.key == 0 { 8 } else { m.key };
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for i in 0..4 {
        keys.extend(key(face, m, i.min(3)));
        values.extend(plain_value(face, m, w));
    }
    keys.resize(n * keyed.max(8), 0);
    values.resize(n * value.max(8), 0);
    let out = user.room(keyed.max(8));
    let mut a = MapBatch {
        in_batch: 0,
        out_batch: out,
        keys: user.put(&keys),
        values: user.put(&values),
        count,
        map_fd: m.fd.cast_unsigned(),
        elem_flags,
        flags: map_flags,
    };
    if rest.starts_with("continue") {
        // From after the first element.
        let mut first = MapBatch { count: 1, ..a };
        let done = face.call(cmd, &mut first, &mut user);
        if let Err(e) = done {
            return (e, format!("count_out={}", first.count));
        }
        let cursor = user.bytes(out).to_vec();
        a.in_batch = user.put(&cursor);
    }
    let done = face.call(cmd, &mut a, &mut user);
    (done.err().unwrap_or_else(|| "ok".to_owned()), format!("count_out={}", a.count))
}
