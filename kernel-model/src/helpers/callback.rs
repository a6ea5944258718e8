//! Helpers that call back into the program (kernel/bpf/bpf_iter.c, arraymap.c, hashtab.c).

use super::{HelperFrame, HelperRow, Ret};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::maps::MapId;
use crate::{Errno, EventKind, Kernel, ProgId};

/// `BPF_MAX_LOOPS`.
const MAX_LOOPS: u64 = 1 << 23;

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 164, name: "for_each_map_elem", nargs: 4, body: for_each_map_elem },
    HelperRow { id: 181, name: "loop", nargs: 4, body: bpf_loop },
];

/// What a waiting helper iterates over.
#[derive(Clone, Debug)]
pub(crate) enum Over {
    /// `bpf_loop`: how often.
    Count(u64),
    /// Elements of a map: its address, the keys there at the start, a buffer for the key.
    Map { id: MapId, addr: u64, keys: Vec<Vec<u8>>, key_at: u64 },
}

fn start(k: &Kernel, cpu: CpuId, name: &'static str, over: Over, func: u64, ctx: u64) -> Ret {
    let prog = k.cpus[cpu.idx()].prog_frame().map(|p| p.prog).expect("a program called");
    Ret::Frame(Frame::Helper(HelperFrame { name, prog, func, ctx, nth: 0, at: 0, over }))
}

fn bpf_loop(k: &mut Kernel, cpu: CpuId, [nr, func, ctx, flags, _]: [u64; 5]) -> Ret {
    let nr = u64::from(nr as u32);
    if flags != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if nr > MAX_LOOPS {
        return Ret::Val(Errno::E2BIG.ret());
    }
    start(k, cpu, "loop", Over::Count(nr), func, ctx)
}

fn for_each_map_elem(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    let [addr, func, ctx, flags, _] = args;
    if flags != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let id = match k.helper_map(addr) {
        Ok(id) => id,
        Err(fault) => return Ret::Fault(fault),
    };
    let size = u64::from(k.maps[&id].def.key_size);
    let Ok(key_at) = k.kzalloc(size, "for_each key") else {
        return Ret::Val(Errno::ENOMEM.ret());
    };
    let keys = k.user_keys(id);
    start(k, cpu, "for_each_map_elem", Over::Map { id, addr, keys, key_at }, func, ctx)
}

impl Kernel {
    /// Calls back once more, or ends the helper with the number of calls made.
    pub(crate) fn helper_step(&mut self, cpu: CpuId, mut f: HelperFrame, input: Input) -> Flow {
        let stop =
            matches!(input, Input::Return(r) if r != 0) || matches!(input, Input::Aborted(_));
        let args = if stop { None } else { self.next_callback(cpu, &mut f) };
        let Some(args) = args else {
            self.helper_dropped(&f);
            return Flow::Done(f.nth.into());
        };
        let (prog, nth) = (f.prog, f.nth);
        self.emit(cpu, EventKind::Callback { prog, helper: f.name, nth });
        f.nth += 1;
        let child = ProgFrame::callback(prog, f.func, args);
        Flow::Call { frame: Frame::Helper(f), child: Frame::Prog(child) }
    }

    /// A helper ends, by itself or because its program was cancelled.
    pub(crate) fn helper_dropped(&mut self, f: &HelperFrame) {
        if let Over::Map { key_at, .. } = f.over {
            self.kfree(key_at, "for_each key");
        }
    }

    /// Arguments of the next call; elements deleted meanwhile are passed over.
    fn next_callback(&mut self, cpu: CpuId, f: &mut HelperFrame) -> Option<[u64; 5]> {
        match &f.over {
            Over::Count(n) => {
                let nth = u64::from(f.nth);
                (nth < *n).then_some([nth, f.ctx, 0, 0, 0])
            }
            Over::Map { id, addr, keys, key_at } => loop {
                let key = keys.get(f.at)?;
                f.at += 1;
                let value = self.map_lookup(*id, key, cpu);
                if value != 0 {
                    self.mem.write(*key_at, key).expect("the buffer holds a key");
                    return Some([*addr, *key_at, value, f.ctx, 0]);
                }
            },
        }
    }
}

/// The program that a frame's callbacks belong to, for readers of the frame stack.
impl HelperFrame {
    /// Program.
    #[must_use]
    pub fn prog(&self) -> ProgId {
        self.prog
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::MapDef;
    use crate::{Config, Fault, Step};
    use bpf::uapi::MapType;

    /// A kernel with a program that is about to call a helper.
    fn running() -> Kernel {
        let mut k = Kernel::new(Config::default());
        k.submit(CpuId(0), Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 3, free: 0 });
        assert!(matches!(k.next(CpuId(0)), Step::Enter(_)));
        k
    }

    #[test]
    fn a_loop_calls_until_the_callback_says_stop() {
        let mut k = running();
        let mut step = k.helper_call(CpuId(0), 181, [10, 0xabc, 0xdef, 0, 0]);
        for i in 0..4 {
            let Step::Enter(e) = step else { panic!("{step:?}") };
            assert!(e.callback);
            assert_eq!((e.func_addr, e.args), (0xabc, [i, 0xdef, 0, 0, 0]));
            step = k.prog_return(CpuId(0), u64::from(i == 3));
        }
        assert_eq!(step, Step::Resume { r0: 4 });
        let none = k.helper_call(CpuId(0), 181, [0; 5]);
        assert_eq!(none, Step::Resume { r0: 0 });
        let big = k.helper_call(CpuId(0), 181, [MAX_LOOPS + 1, 0, 0, 0, 0]);
        assert_eq!(big, Step::Resume { r0: Errno::E2BIG.ret() });
        assert_eq!(k.prog_return(CpuId(0), 0), Step::Idle);
    }

    #[test]
    fn each_element_is_visited_and_a_fault_frees_the_buffer() {
        let mut k = Kernel::new(Config::default());
        let def = MapDef {
            map_type: MapType::Array,
            key_size: 4,
            value_size: 8,
            max_entries: 3,
            ..MapDef::default()
        };
        let id = k.map_create(def, None).unwrap();
        let addr = k.maps[&id].addr;
        let before = k.alloc.live_bytes();
        k.submit(CpuId(0), Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 0, free: 0 });
        let _ = k.next(CpuId(0));
        let mut step = k.helper_call(CpuId(0), 164, [addr, 0xabc, 5, 0, 0]);
        for i in 0..3 {
            let Step::Enter(e) = step else { panic!("{step:?}") };
            assert_eq!((e.args[0], e.args[3]), (addr, 5));
            assert_eq!(k.mem.read_u32(e.args[1]), Ok(i));
            step = k.prog_return(CpuId(0), 0);
        }
        assert_eq!(step, Step::Resume { r0: 3 });
        let _ = k.helper_call(CpuId(0), 164, [addr, 0xabc, 5, 0, 0]);
        let step = k.prog_fault(CpuId(0), Fault::unsupported("test"));
        assert!(matches!(step, Step::Abort { contexts: 2, .. }), "{step:?}");
        assert_eq!(k.next(CpuId(0)), Step::Idle);
        assert_eq!(k.alloc.live_bytes(), before);
    }
}
