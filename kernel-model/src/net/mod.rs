//! The network stack.

use crate::Kernel;
use crate::cpu::{CpuId, Flow, Input};

/// State of the network stack.
#[derive(Clone, Debug, Default)]
pub struct Net {}

/// A path of the network stack that runs programs.
#[derive(Clone, Debug)]
pub enum NetFrame {}

impl Kernel {
    /// Goes on with a path of the network stack.
    pub(crate) fn net_step(&mut self, _cpu: CpuId, frame: NetFrame, _input: Input) -> Flow {
        match frame {}
    }
}
