//! One program with several memories on all engines, for fuzzing: loaded and compiled once, and
//! only a difference costs more.

use bpf::{Arch, Endian};

use super::engines::{Miss, Ran, Rig};
use super::judge::{archs, difference};
use super::vector::{Memory, Vector};

/// What running a program came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// All engines agree: instructions that each retired, and what the little-endian ones came to,
    /// in the order of the memories.
    Agree {
        /// By each engine, over all memories.
        retired: u64,
        /// Results of the little-endian interpreter.
        little: Vec<Ran>,
    },
    /// No engine gets to run it.
    Refused(String),
    /// With this memory two do not agree, or one should not have got there.
    Apart(usize, String),
}

/// Runs a program with each memory on both interpreters and the machines that are named.
pub fn differ(rig: &mut Rig, v: &Vector, memories: &[Memory], named: &[Arch]) -> Came {
    let (mut retired, mut little) = (0, Vec::new());
    for order in [Endian::Little, Endian::Big] {
        let mut reference: Option<Vec<Result<Ran, Miss>>> = None;
        for arch in archs(order).iter().filter(|a| named.contains(a)) {
            match machine(rig, v, memories, *arch, &mut reference) {
                Ok(()) => {}
                Err(came) => return came,
            }
        }
        let ran: Vec<Ran> = reference.into_iter().flatten().filter_map(Result::ok).collect();
        retired = retired.max(ran.iter().filter_map(|r| r.retired).sum());
        if order == Endian::Little {
            little = ran;
        }
    }
    Came::Agree { retired, little }
}

/// A machine against the interpreter, which runs when the first of its byte order does.
fn machine(
    rig: &mut Rig,
    v: &Vector,
    memories: &[Memory],
    arch: Arch,
    reference: &mut Option<Vec<Result<Ran, Miss>>>,
) -> Result<(), Came> {
    let m = rig.native(arch).map_err(|e| Came::Apart(0, format!("{arch}: {e}")))?;
    let mut v = v.clone();
    v.mem = memories.first().cloned();
    let loaded = match m.load(&v) {
        Ok(loaded) => loaded,
        // All take it or none: the verifier knows no architectures but for their byte order.
        Err(miss) if reference.is_none() => return Err(Came::Refused(miss.to_string())),
        Err(miss) => return Err(Came::Apart(0, format!("{arch}: {miss}"))),
    };
    let mut found = Ok(());
    let mut said = Vec::new();
    for (n, memory) in memories.iter().enumerate() {
        v.mem = Some(memory.clone());
        let want = match reference {
            Some(all) => all[n].clone(),
            None => m.interpret(&v, &loaded),
        };
        let got = m.run(&v, &loaded);
        let what = match (&want, &got) {
            (Err(Miss::Fault(why)), Err(_)) => Some(format!("a verified program fails: {why}")),
            (_, Err(Miss::Broken(why) | Miss::Unsupported(why))) => Some(why.clone()),
            _ => difference(&got, &want),
        };
        if let Some(what) = what {
            found = Err(Came::Apart(n, format!("{arch}: {what}")));
            break;
        }
        said.push(want);
    }
    reference.get_or_insert(said);
    m.unload(&loaded).map_err(|e| Came::Apart(0, format!("{arch}: {e}")))?;
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::assemble_insns;

    fn vector(text: &str) -> Vector {
        let insns = assemble_insns(text).unwrap();
        let lines = vec![0; insns.len()];
        Vector::new(insns, lines)
    }

    #[test]
    fn all_memories_are_run() {
        let v = vector("r0 = *(u8 *)(r1 +0)\nif r0 == 1 goto pc+1\nr0 += 1\nexit");
        let memories = [1, 7].map(|b| Memory::bytes(vec![b; 8]));
        let mut rig = Rig::new(1000);
        let Came::Agree { retired, little } = differ(&mut rig, &v, &memories, &Arch::ALL) else {
            panic!("they agree");
        };
        assert_eq!(little.iter().map(|r| r.r0).collect::<Vec<_>>(), [1, 8]);
        assert!(retired > 12, "{retired}");
        let refused = differ(&mut rig, &vector("exit"), &memories, &Arch::ALL);
        assert!(matches!(refused, Came::Refused(why) if why.contains("R0 !read_ok")));
    }
}
