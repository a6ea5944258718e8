//! Rows about descriptors and attributes that are wrong.

use bpf::uapi::Cmd;
use bpf::uapi::attr::{MapBatch, MapElem};
use bpf::uapi::fields::Struct;
use kernel_model::syscall::UserSpace;

use crate::face::Face;
use crate::ops::{Answer, Ask, BATCH_SIZE, ELEM_SIZE, Made, World, elem, key, plain_value, update};

/// Bytes of the union that are sent.
const ATTR: usize = 120;

pub(crate) fn perform(face: &mut Face, m: Made, w: World, ask: &Ask<'_>) -> Answer {
    let said = match ask.key.strip_prefix("fd=") {
        Some(fd) => {
            let fd = match fd {
                "unused fd" => 9999,
                "not a map fd" => w.prog,
                number => number.parse().expect("a descriptor"),
            };
            bad_fd(face, Made { fd, ..m }, ask.op)
        }
        None => bad_attr(face, m, w, ask.op),
    };
    (said.err().unwrap_or_else(|| "ok".to_owned()), String::new())
}

fn bad_fd(face: &mut Face, m: Made, op: &str) -> Result<i32, String> {
    let mut user = UserSpace::new();
    let (k, v) = (user.room(8), user.room(16));
    let cmd = match op {
        "lookup" => Cmd::MapLookupElem,
        "update" => Cmd::MapUpdateElem,
        "delete" => return face.call(Cmd::MapDeleteElem, &mut elem(m, k, 0, 0), &mut user),
        "get_next_key" => Cmd::MapGetNextKey,
        "freeze" => return face.call(Cmd::MapFreeze, &mut elem(m, 0, 0, 0), &mut user),
        "lookup_batch" => {
            let map_fd = m.fd.cast_unsigned();
            let a = MapBatch { map_fd, count: 1, keys: k, values: v, ..MapBatch::default() };
            let mut bytes = a.encode(face.endian());
            bytes.truncate(BATCH_SIZE);
            return face.bytes(Cmd::MapLookupBatch, &mut bytes, &mut user);
        }
        other => panic!("unknown operation {other}"),
    };
    face.call(cmd, &mut elem(m, k, v, 0), &mut user)
}

/// One field or byte beside the fields set to something.
fn bad_attr(face: &mut Face, m: Made, w: World, op: &str) -> Result<i32, String> {
    let mut user = UserSpace::new();
    let k0 = key(face, m, 0);
    if op.contains("(present)") {
        let value = plain_value(face, m, w);
        update(face, m, Some(&k0), &value, 0);
    }
    let (k, v) = (user.put(&k0), user.room(16));
    let (cmd, a, beside) = match op {
        "lookup value=NULL (absent key)" | "lookup value=NULL (present)" => {
            (Cmd::MapLookupElem, elem(m, k, 0, 0), None)
        }
        "lookup key=1" => (Cmd::MapLookupElem, elem(m, 1, v, 0), None),
        // Between map_fd and key there are four bytes of padding.
        "lookup attr pad nonzero" => (Cmd::MapLookupElem, elem(m, k, v, 0), Some(4)),
        "lookup trailing nonzero" => (Cmd::MapLookupElem, elem(m, k, v, 0), Some(ELEM_SIZE)),
        "update value=NULL" => (Cmd::MapUpdateElem, elem(m, k, 0, 0), None),
        "delete with value set" => (Cmd::MapDeleteElem, elem(m, k, v, 0), None),
        "freeze trailing nonzero" => (Cmd::MapFreeze, elem(m, 0, 0, 0), Some(8)),
        other => panic!("unknown operation {other}"),
    };
    let mut bytes = MapElem::encode(&a, face.endian());
    bytes.resize(ATTR, 0);
    if let Some(at) = beside {
        bytes[at] = 1;
    }
    face.bytes(cmd, &mut bytes, &mut user)
}
