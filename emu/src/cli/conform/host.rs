//! The kernel of this machine as an engine: what is asked for all kinds of cases.

use std::cell::RefCell;
use std::sync::Arc;

use bpf::Program;
use verifier::caps::Caps;

use crate::cli::target::Target;
use crate::host::{HostKernel, HostVerdict};

/// `EPERM`: some kinds of programs may not be loaded.
const EPERM: i32 = 1;

/// A kernel, and what is judged for it.
type Opened = Result<(HostKernel, Arc<Target>), String>;

thread_local! {
    /// That of this thread; descriptors are not shared.
    static KERNEL: RefCell<Option<Opened>> = const { RefCell::new(None) };
}

fn open() -> Opened {
    let kernel = HostKernel::open().map_err(|e| e.to_string())?;
    let target = Target::host(kernel.version()).ok_or("its BTF cannot be read")?;
    Ok((kernel, Arc::new(target)))
}

/// Asks the kernel as a loader with capabilities. What was made for it is closed, also where it
/// came to nothing.
///
/// # Errors
/// Why it cannot be asked.
pub(super) fn with<R: Send>(
    caps: Caps,
    ask: impl FnOnce(&mut HostKernel, &Arc<Target>) -> R + Send,
) -> Result<R, String> {
    if caps == Caps::ALL {
        return here(ask);
    }
    if !caps.bpf {
        return Err("this kernel is not asked without CAP_BPF: few take programs then".to_owned());
    }
    // Capabilities do not come back: the thread ends with the question.
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            here(|k, target| {
                k.keep_caps(caps.mask()).map_err(|e| format!("capabilities: {e}"))?;
                Ok(ask(k, target))
            })
        });
        asking.join().map_err(|_| "the thread that asks ended".to_owned())?.and_then(|r| r)
    })
}

/// Asks as this thread.
fn here<R>(ask: impl FnOnce(&mut HostKernel, &Arc<Target>) -> R) -> Result<R, String> {
    KERNEL.with_borrow_mut(|slot| match slot.get_or_insert_with(open) {
        Ok((kernel, target)) => {
            let answer = ask(kernel, target);
            kernel.close_all();
            Ok(answer)
        }
        Err(why) => Err(why.clone()),
    })
}

/// # Errors
/// Why a program is never sent.
pub(super) fn may_be_sent(kernel: &HostKernel, program: &Program) -> Result<(), String> {
    match kernel.can_harm(program) {
        true => Err("programs with workqueues can stop a kernel of 6.18".to_owned()),
        false => Ok(()),
    }
}

/// # Errors
/// The kernel did not look at the program.
pub(super) fn permitted(said: &HostVerdict) -> Result<(), String> {
    match said.errno == EPERM && said.reason().is_none() {
        true => Err("this process may not load programs of this kind".to_owned()),
        false => Ok(()),
    }
}
