// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The errno that a simulated system call answers with.

use std::fmt;

/// A positive Linux errno, as the boundary hands it to the caller of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: Self = Self(libc::$name);)*

            /// Every errno that has a name here.
            pub const NAMED: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name)),*];
        }
    };
}

errnos!(
    EPERM, ENOENT, EINTR, EIO, ENXIO, EBADF, EAGAIN, ENOMEM, EACCES, EFAULT, EBUSY, EEXIST, ENODEV,
    EINVAL, EMFILE, ENFILE, ENOTTY, ENOSPC, ESPIPE, EPIPE, EPROTO, EOVERFLOW, EOPNOTSUPP,
    ETIMEDOUT, EALREADY, ESTALE, EUCLEAN, ECANCELED, E2BIG, EMSGSIZE, EBADFD,
);

impl Errno {
    /// What the kernel calls "restart this system call"; a program only sees it where a driver keeps it for later.
    pub const ERESTARTSYS: Self = Self(512);

    /// The errno called `name` (`"EIO"`), or the number that `name` spells.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let named = Self::NAMED
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|&(_, e)| e);
        named.or_else(|| {
            name.parse()
                .ok()
                .filter(|n| (1..4096).contains(n))
                .map(Self)
        })
    }

    /// The errno of the C library's last failed call on this thread.
    #[must_use]
    pub fn last() -> Self {
        Self::of(&std::io::Error::last_os_error())
    }

    /// The errno in `error`, or `EIO` when it has none.
    #[must_use]
    pub fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(_, e)| e == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_back_from_what_it_prints() {
        for &(name, errno) in Errno::NAMED {
            assert_eq!(errno.to_string(), name);
            assert_eq!(Errno::from_name(name), Some(errno));
        }
        assert_eq!(Errno::from_name("5"), Some(Errno::EIO));
        assert_eq!(Errno::from_name("0"), None);
        assert_eq!(Errno::from_name("ENONSENSE"), None);
    }
}
