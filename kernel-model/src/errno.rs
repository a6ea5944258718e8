//! Error numbers of the kernel, by name.

macro_rules! errnos {
    ($($name:ident = $n:literal,)*) => {
        /// A kernel error number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names are the kernel's")]
        #[repr(i32)]
        pub enum Errno { $($name = $n,)* }
        impl Errno {
            /// Name as in errno.h.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Errno::$name => stringify!($name),)* }
            }
            /// From its number.
            #[must_use]
            pub fn from_raw(raw: i32) -> Option<Errno> {
                match raw { $($n => Some(Errno::$name),)* _ => None }
            }
            /// From its name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Errno> {
                match name { $(stringify!($name) => Some(Errno::$name),)* _ => None }
            }
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, ENOEXEC = 8,
    EBADF = 9, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17,
    EXDEV = 18, ENODEV = 19, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENFILE = 23,
    EMFILE = 24, ENOTTY = 25,
    EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30, EPIPE = 32, EDOM = 33,
    ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40,
    ENOMSG = 42,
    ENODATA = 61, ENOLINK = 67, EPROTO = 71, EBADMSG = 74,
    EOVERFLOW = 75, EBADFD = 77, ENOTSOCK = 88, EDESTADDRREQ = 89, EMSGSIZE = 90, EPROTOTYPE = 91,
    ENOPROTOOPT = 92, EPROTONOSUPPORT = 93, ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95, EAFNOSUPPORT = 97, EADDRINUSE = 98, EADDRNOTAVAIL = 99,
    ENETDOWN = 100, ENETUNREACH = 101,
    ECONNABORTED = 103, ECONNRESET = 104, ENOBUFS = 105,
    EISCONN = 106, ENOTCONN = 107, ETIMEDOUT = 110, ECONNREFUSED = 111, EHOSTUNREACH = 113,
    EALREADY = 114,
    EINPROGRESS = 115,
    ESTALE = 116, ECANCELED = 125, ENOTSUPP = 524,
}

impl Errno {
    /// As the kernel returns it from a function: a negative number in a register.
    #[must_use]
    pub const fn ret(self) -> u64 {
        -(self as i64) as u64
    }

    /// From what a function returned; none for a value that is no error of the model.
    #[must_use]
    pub fn from_ret(ret: u64) -> Option<Errno> {
        Errno::from_raw(i32::try_from(-(ret as i64)).ok()?)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Errno {}
