//! Helpers that call back into the program (kernel/bpf/bpf_iter.c, arraymap.c, hashtab.c,
//! ringbuf.c).

use super::{HelperFrame, HelperRow, Ret, dynptr};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::kfuncs::Adding;
use crate::maps::{MapId, Peek};
use crate::sched::MmapRead;
use crate::{Errno, EventKind, Kernel, ProgId};

/// `BPF_MAX_LOOPS`.
const MAX_LOOPS: u64 = 1 << 23;
/// `BPF_MAX_USER_RINGBUF_SAMPLES`.
const MAX_SAMPLES: u32 = 128 * 1024;

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 164, name: "for_each_map_elem", nargs: 4, body: for_each_map_elem },
    HelperRow { id: 180, name: "find_vma", nargs: 5, body: find_vma },
    HelperRow { id: 181, name: "loop", nargs: 4, body: bpf_loop },
    HelperRow { id: 209, name: "user_ringbuf_drain", nargs: 4, body: user_ringbuf_drain },
];

/// What a waiting helper iterates over.
#[derive(Clone, Debug)]
pub(crate) enum Over {
    /// `bpf_loop`: how often.
    Count(u64),
    /// Elements of a map: its address, the keys there at the start, a buffer for the key.
    Map { id: MapId, addr: u64, keys: Vec<Vec<u8>>, key_at: u64 },
    /// Samples of a user ring buffer.
    Samples(Samples),
    /// `bpf_find_vma`: the task and its mapping, under `mmap_lock`.
    Vma { task: u64, vma: u64, read: MmapRead },
    /// The place of a node in a tree.
    RbAdd(Adding),
}

/// The state of `bpf_user_ringbuf_drain`.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    id: MapId,
    /// `struct bpf_dynptr_kern` that callbacks get.
    dynptr: u64,
    /// Samples looked at, discarded ones too.
    seen: u32,
    /// Size of the one that the callback has.
    size: Option<u32>,
    /// The ring is broken.
    error: Option<Errno>,
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

fn find_vma(k: &mut Kernel, cpu: CpuId, [task, start, func, ctx, flags]: [u64; 5]) -> Ret {
    if flags != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let read = match k.mmap_read(cpu, task, "bpf_find_vma") {
        Ok(read) => read,
        Err(e) => return Ret::Val(e.ret()),
    };
    match k.vma_from(read.mm, start).filter(|(range, _)| range.contains(&start)) {
        Some((_, vma)) => self::start(k, cpu, "find_vma", Over::Vma { task, vma, read }, func, ctx),
        None => {
            k.mmap_read_end(cpu, read);
            Ret::Val(Errno::ENOENT.ret())
        }
    }
}

/// `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP` are known and change nothing: the model's user
/// space does not sleep until there is room.
const WAKEUP_FLAGS: u64 = 3;

fn user_ringbuf_drain(k: &mut Kernel, cpu: CpuId, [map, func, ctx, flags, _]: [u64; 5]) -> Ret {
    if flags & !WAKEUP_FLAGS != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(fault) => return Ret::Fault(fault),
    };
    if let Err(e) = k.user_ring_lock(id) {
        return Ret::Val(e.ret());
    }
    // On the kernel's stack there: not an allocation that a scenario can make fail.
    let site = k.site("user_ringbuf_drain dynptr");
    let Ok(at) = k.alloc.kmalloc(&mut k.mem, dynptr::BYTES, site) else {
        k.user_ring_unlock(id);
        return Ret::Val(Errno::ENOMEM.ret());
    };
    let over = Samples { id, dynptr: at, seen: 0, size: None, error: None };
    start(k, cpu, "user_ringbuf_drain", Over::Samples(over), func, ctx)
}

impl Kernel {
    /// Calls back once more, or ends the helper with the number of calls made.
    pub(crate) fn helper_step(&mut self, cpu: CpuId, mut f: HelperFrame, input: Input) -> Flow {
        if let Over::RbAdd(adding) = f.over {
            return self.rb_step(cpu, HelperFrame { over: Over::Count(0), ..f }, adding, input);
        }
        let stop = match input {
            Input::Return(r) => r != 0 || self.is_cancelled(cpu),
            Input::Aborted(_) => true,
            Input::Start | Input::Again => false,
        };
        if let (Over::Samples(s), Input::Return(_)) = (&mut f.over, &input) {
            // Also the sample at which the callback says stop.
            s.size.take().into_iter().for_each(|size| self.user_ring_release(s.id, size));
        }
        let args = if stop { None } else { self.next_callback(cpu, &mut f) };
        let Some(args) = args else {
            self.helper_dropped(cpu, &f);
            return Flow::Done(match f.over {
                Over::Vma { .. } => 0,
                Over::Samples(Samples { error: Some(e), .. }) => e.ret(),
                _ => f.nth.into(),
            });
        };
        let (prog, nth) = (f.prog, f.nth);
        self.emit(cpu, EventKind::Callback { prog, helper: f.name, nth });
        f.nth += 1;
        let child = ProgFrame::callback(prog, f.func, args);
        Flow::Call { frame: Frame::Helper(f), child: Frame::Prog(child) }
    }

    /// Goes on with the search for a node's place: an answer that is not 0 is "before".
    fn rb_step(
        &mut self,
        cpu: CpuId,
        mut f: HelperFrame,
        mut adding: Adding,
        input: Input,
    ) -> Flow {
        let told = match input {
            Input::Start | Input::Again => Ok(()),
            Input::Return(r) => adding.said(self, r != 0),
            Input::Aborted(fault) => return Flow::Fault(fault),
        };
        let step = told.and_then(|()| match adding.next() {
            Some(args) => Ok(Some(args)),
            None => adding.finish(self).map(|()| None),
        });
        match step {
            Ok(Some(args)) => {
                let (prog, nth) = (f.prog, f.nth);
                self.emit(cpu, EventKind::Callback { prog, helper: f.name, nth });
                f.nth += 1;
                f.over = Over::RbAdd(adding);
                let child = ProgFrame::callback(prog, f.func, args);
                Flow::Call { frame: Frame::Helper(f), child: Frame::Prog(child) }
            }
            Ok(None) => Flow::Done(0),
            Err(fault) => Flow::Fault(fault.into()),
        }
    }

    /// A helper ends, by itself or because its program was cancelled.
    pub(crate) fn helper_dropped(&mut self, cpu: CpuId, f: &HelperFrame) {
        match &f.over {
            Over::Count(_) | Over::RbAdd(_) => {}
            Over::Vma { read, .. } => self.mmap_read_end(cpu, *read),
            Over::Map { key_at, .. } => self.kfree(*key_at, "for_each key"),
            Over::Samples(s) => {
                self.user_ring_unlock(s.id);
                self.kfree(s.dynptr, "user_ringbuf_drain dynptr");
            }
        }
    }

    /// Arguments of the next call; elements deleted meanwhile are passed over.
    fn next_callback(&mut self, cpu: CpuId, f: &mut HelperFrame) -> Option<[u64; 5]> {
        match &mut f.over {
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
            Over::Vma { task, vma, .. } => (f.nth == 0).then_some([*task, *vma, f.ctx, 0, 0]),
            Over::Samples(s) => {
                self.next_sample(s)?;
                Some([s.dynptr, f.ctx, 0, 0, 0])
            }
            Over::RbAdd(adding) => adding.next(),
        }
    }

    /// Makes the dynptr of the next sample.
    fn next_sample(&mut self, s: &mut Samples) -> Option<()> {
        while s.seen < MAX_SAMPLES {
            match self.user_ring_peek(s.id) {
                Ok(Peek::Empty) => return None,
                Ok(Peek::Discarded) => s.seen += 1,
                Ok(Peek::Sample(at, size)) => {
                    s.seen += 1;
                    s.size = Some(size);
                    let made = self.dynptr_init(s.dynptr, at, dynptr::Type::Local, size);
                    made.expect("the object holds a dynptr");
                    return Some(());
                }
                Err(e) => {
                    s.error = Some(e);
                    return None;
                }
            }
        }
        None
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

    /// A user ring buffer with samples of one to `n` bytes, and the address of its map.
    fn samples(n: u8) -> (Kernel, MapId, u64) {
        let mut k = Kernel::new(Config::default());
        let map_type = MapType::UserRingbuf;
        let def = MapDef { map_type, max_entries: 4096, ..MapDef::default() };
        let id = k.map_create(def, None).unwrap();
        for i in 1..=n {
            k.user_ring_put(id, &vec![i; i.into()]).unwrap();
        }
        k.submit(CpuId(0), Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 0, free: 0 });
        let _ = k.next(CpuId(0));
        let addr = k.maps[&id].addr;
        (k, id, addr)
    }

    #[test]
    fn samples_of_user_space_are_taken_until_the_callback_says_stop() {
        let (mut k, _, addr) = samples(3);
        let before = k.alloc.live_bytes();
        let bad = k.helper_call(CpuId(0), 209, [addr, 0xabc, 5, 4, 0]);
        assert_eq!(bad, Step::Resume { r0: Errno::EINVAL.ret() });
        // Two, the second of which says stop; then the one that is left; then none.
        for (calls, flags) in [(1..3, 0), (3..4, 1), (4..4, 2)] {
            let n = calls.end - calls.start;
            let mut step = k.helper_call(CpuId(0), 209, [addr, 0xabc, 5, flags, 0]);
            for i in calls {
                let Step::Enter(e) = step else { panic!("{step:?}") };
                assert_eq!((e.func_addr, e.args[1]), (0xabc, 5));
                let data = k.mem.read_u64(e.args[0]).unwrap();
                assert_eq!(k.mem.read_u32(e.args[0] + 8), Ok(1 << 28 | i));
                assert_eq!(k.mem.read_vec(data, i as usize).unwrap(), vec![i as u8; i as usize]);
                step = k.prog_return(CpuId(0), u64::from(i == 2));
            }
            assert_eq!(step, Step::Resume { r0: n.into() });
        }
        assert_eq!(k.alloc.live_bytes(), before);
    }

    #[test]
    fn one_program_drains_at_a_time_and_a_fault_ends_that() {
        let (mut k, id, addr) = samples(1);
        let step = k.helper_call(CpuId(0), 209, [addr, 0xabc, 0, 0, 0]);
        assert!(matches!(step, Step::Enter(_)), "{step:?}");
        let again = k.helper_call(CpuId(0), 209, [addr, 0xabc, 0, 0, 0]);
        assert_eq!(again, Step::Resume { r0: Errno::EBUSY.ret() });
        let step = k.prog_fault(CpuId(0), Fault::unsupported("test"));
        assert!(matches!(step, Step::Abort { contexts: 2, .. }), "{step:?}");
        assert_eq!(k.user_ring_lock(id), Ok(()));
    }
}
