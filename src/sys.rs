//! The kernel, as this project uses it: the only module with `unsafe`.
//!
//! Each function is one system call (or one call and its mandatory retry), takes descriptors rather
//! than paths wherever the kernel does, and fails with a [`SysError`] that names the call and what it
//! was applied to. Linux 5.12 is the oldest kernel on which all mandatory calls exist
//! (`mount_setattr`); `statmount` (6.8) is optional and answers `None` where it is missing.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::libc;
use nix::sys::stat::Mode;

/// A system call that failed, and what it was applied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysError {
    /// Name of the call, as in its manual page.
    pub call: &'static str,
    /// What it was applied to, for people.
    pub on: String,
    /// Why it failed.
    pub errno: Errno,
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.on.is_empty() {
            write!(f, "{}: {}", self.call, self.errno.desc())
        } else {
            write!(f, "{} {}: {}", self.call, self.on, self.errno.desc())
        }
    }
}

impl std::error::Error for SysError {}

/// Result of a system call.
pub type Result<T> = std::result::Result<T, SysError>;

/// Names the call and its object on the error path only.
pub trait Named<T> {
    /// Turns a bare errno into a [`SysError`].
    ///
    /// # Errors
    /// The same failure, with its name.
    fn named(self, call: &'static str, on: impl fmt::Display) -> Result<T>;
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, call: &'static str, on: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| SysError { call, on: on.to_string(), errno })
    }
}

/// How a path is resolved below a directory; see openat2(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// As if the directory were `/`: absolute links and `..` stay inside (`RESOLVE_IN_ROOT`).
    InRoot,
    /// Beneath the directory, and no component may be a symbolic link.
    BeneathNoLinks,
    /// As [`Resolve::BeneathNoLinks`], and no mount point may be crossed (`RESOLVE_NO_XDEV`).
    BeneathNoLinksNoMounts,
    /// No symbolic link anywhere, absolute paths allowed.
    NoLinks,
    /// Symbolic links are followed, magic links are not.
    NoMagic,
}

impl Resolve {
    fn flags(self) -> ResolveFlag {
        let no_magic = ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let no_links = no_magic | ResolveFlag::RESOLVE_NO_SYMLINKS;
        match self {
            Resolve::InRoot => no_magic | ResolveFlag::RESOLVE_IN_ROOT,
            Resolve::BeneathNoLinks => no_links | ResolveFlag::RESOLVE_BENEATH,
            Resolve::BeneathNoLinksNoMounts => no_links | ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV,
            Resolve::NoLinks => no_links,
            Resolve::NoMagic => no_magic,
        }
    }
}

/// openat2(2) answers EAGAIN when a rename or mount raced with `..` or a root-scoped walk; it asks the
/// caller to try again. So often, then the failure is reported.
const OPENAT2_TRIES: usize = 128;

/// Opens `path` below `dir` with openat2(2); `O_CLOEXEC` is added.
///
/// # Errors
/// Whatever openat2(2) answers; `EAGAIN` only after 128 tries.
pub fn open_below(dir: impl AsFd, path: &Path, flags: OFlag, resolve: Resolve) -> Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve.flags());
    let mut answer = Err(Errno::EAGAIN);
    for _ in 0..OPENAT2_TRIES {
        answer = nix::fcntl::openat2(dir.as_fd(), path, how);
        if !matches!(answer, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    answer.named("openat2", Quoted(path))
}

/// Opens a directory as a place (`O_PATH`), to resolve below it or to mount on it.
///
/// # Errors
/// As [`open_below`]; `ENOTDIR` where it is no directory.
pub fn open_place(dir: impl AsFd, path: &Path, resolve: Resolve) -> Result<OwnedFd> {
    open_below(dir, path, OFlag::O_PATH | OFlag::O_DIRECTORY, resolve)
}

/// Opens anything as a place (`O_PATH`): a directory, file, device or socket.
///
/// # Errors
/// As [`open_below`].
pub fn open_path(dir: impl AsFd, path: &Path, resolve: Resolve) -> Result<OwnedFd> {
    open_below(dir, path, OFlag::O_PATH, resolve)
}

/// Tells what is gone, replaced or on a filesystem that has died (`None`) from what cannot be looked at right now: that may
/// still be there.
///
/// # Errors
/// Whatever the answer is otherwise.
pub fn if_there<T>(answer: Result<T>) -> Result<Option<T>> {
    use Errno::{ELOOP, ENOENT, ENOTCONN, ENOTDIR, ESTALE, EXDEV};
    match answer {
        Err(error) if [ENOENT, ENOTDIR, ELOOP, EXDEV, ENOTCONN, ESTALE].contains(&error.errno) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Opens a directory to read its entries or to lock it.
///
/// # Errors
/// As [`open_below`].
pub fn open_dir(dir: impl AsFd, path: &Path, resolve: Resolve) -> Result<OwnedFd> {
    open_below(dir, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK, resolve)
}

/// Shows a path in an error or log line.
pub struct Quoted<'a>(pub &'a Path);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Identity of a file: what a path string can never prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[cfg_attr(test, derive(Default))]
pub struct FileId {
    /// Device number, as `makedev` packs it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

impl FileId {
    /// Major and minor number of its device.
    #[must_use]
    pub fn device(self) -> (u32, u32) {
        (libc::major(self.dev), libc::minor(self.dev))
    }
}

/// What a directory says that a name of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Which mount something lies on: to tell mounts apart, and to ask the kernel about one. [`mount_number`] is what mountinfo
/// has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountId {
    id: u64,
    /// It is never given to another mount (Linux 6.8); otherwise it is the number in mountinfo.
    is_unique: bool,
}

/// What statx(2) tells of a file and of the mount it was reached through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Default))]
pub struct Stat {
    /// Device and inode.
    pub id: FileId,
    /// The mount it was reached through.
    pub mount: MountId,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether this is the root of the mount it was reached through (Linux 5.8).
    pub mount_root: bool,
    /// Nanoseconds since the epoch at which it was made; 0 where the filesystem does not know. It tells a file
    /// from a later one with the same inode.
    pub born: i64,
    /// Bytes in it.
    pub size: u64,
    /// Names that it has; none once it was removed.
    pub links: u32,
}

impl Stat {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }

    /// Permission bits, setuid, setgid and sticky included.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

fn raw_statx(dir: BorrowedFd<'_>, name: &CStr, flags: libc::c_int, mask: u32) -> nix::Result<libc::statx> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `name` is NUL-terminated, `dir` is open, and the kernel fills at most one statx.
    let answer = unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, buffer.as_mut_ptr()) };
    Errno::result(answer)?;
    // SAFETY: zeroed, then filled by the kernel; every bit pattern is a valid statx.
    let raw = unsafe { buffer.assume_init() };
    // glibc makes do with fstatat(2), which knows neither births nor mounts: files would be others than they were.
    let mount = libc::STATX_MNT_ID | libc::STATX_MNT_ID_UNIQUE;
    if mask & mount == 0 || raw.stx_mask & mount != 0 { Ok(raw) } else { Err(Errno::ENOSYS) }
}

fn to_stat(raw: &libc::statx) -> Stat {
    Stat {
        id: FileId { dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor), ino: raw.stx_ino },
        mount: MountId { id: raw.stx_mnt_id, is_unique: raw.stx_mask & libc::STATX_MNT_ID_UNIQUE != 0 },
        mode: u32::from(raw.stx_mode),
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        mount_root: raw.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0,
        born: raw.stx_btime.tv_sec * 1_000_000_000 + i64::from(raw.stx_btime.tv_nsec),
        size: raw.stx_size,
        links: raw.stx_nlink,
    }
}

// A kernel that knows unique ids of mounts tells that, and another the one that it knows.
const STAT_MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID | libc::STATX_MNT_ID_UNIQUE | libc::STATX_BTIME;

/// statx(2) of an open descriptor (`O_PATH` included).
///
/// # Errors
/// Whatever statx(2) answers.
pub fn stat(fd: impl AsFd) -> Result<Stat> {
    raw_statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH, STAT_MASK).map(|raw| to_stat(&raw)).named("statx", "")
}

/// Number of the mount that something lies on, as in the first column of /proc/PID/mountinfo (Linux 5.8).
///
/// # Errors
/// Whatever statx(2) answers.
pub fn mount_number(fd: impl AsFd) -> Result<u64> {
    let raw = raw_statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH, libc::STATX_MNT_ID);
    raw.map(|raw| raw.stx_mnt_id).named("statx", "")
}

/// Bytes that a file or directory takes on disk.
///
/// # Errors
/// Whatever statx(2) answers.
pub fn allocated(fd: impl AsFd) -> Result<u64> {
    let raw = raw_statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH, libc::STATX_BLOCKS);
    raw.map(|raw| raw.stx_blocks * 512).named("statx", "")
}

/// statx(2) of one name in a directory, a link itself and not what it points to.
///
/// # Errors
/// Whatever statx(2) answers; `ENOENT` where there is no such name.
pub fn stat_at(dir: impl AsFd, name: &str) -> Result<Stat> {
    let text = CString::new(name).map_err(|_| Errno::EINVAL).named("statx", format_args!("{name:?}"))?;
    raw_statx(dir.as_fd(), &text, libc::AT_SYMLINK_NOFOLLOW, STAT_MASK)
        .map(|raw| to_stat(&raw))
        .named("statx", format_args!("{name:?}"))
}

/// What a path below a directory leads to, through links: to compare it with something that is open.
///
/// # Errors
/// Whatever statx(2) answers.
pub fn stat_through(dir: impl AsFd, path: &Path) -> Result<Stat> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL).named("statx", Quoted(path))?;
    raw_statx(dir.as_fd(), &text, 0, STAT_MASK).map(|raw| to_stat(&raw)).named("statx", Quoted(path))
}

/// Bytes of names that are read at once: so many that one call suffices for most directories.
/// Standard input, output and error, whatever they are.
#[must_use]
pub fn standard() -> [BorrowedFd<'static>; 3] {
    // SAFETY: this process never closes them; one that was closed before gives EBADF until something is opened in its place.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

/// The words of the command line but the first: as execve(2) gave them to `main`.
///
/// # Safety
/// `values` has as many pointers to NUL-terminated texts as `count` says.
#[must_use]
pub unsafe fn arguments(count: libc::c_int, values: *const *const libc::c_char) -> Vec<OsString> {
    let word = |index: libc::c_int| {
        // SAFETY: by the contract of this function.
        let text = unsafe { CStr::from_ptr(*values.offset(index as isize)) };
        OsStr::from_bytes(text.to_bytes()).to_owned()
    };
    (1..count).map(word).collect()
}

/// The `main` of a hook, called by the C library itself. std's own start, before its `main`, reads the process's table of
/// mappings and readies a stack for a report of stack overflows: a tenth of what a whole hook costs.
#[macro_export]
macro_rules! hook_main {
    ($stage:ident) => {
        // SAFETY: the program has no other symbol of this name.
        #[unsafe(no_mangle)]
        extern "C" fn main(count: std::ffi::c_int, values: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: the C library calls main with what execve(2) was given.
            let arguments = unsafe { $crate::sys::arguments(count, values) };
            $crate::hook::main($crate::hook::stage::Stage::$stage, arguments)
        }
    };
}

/// Reads once, at most so many bytes, to the end of `bytes`: read(2). What is not read into is not touched.
///
/// # Errors
/// Whatever read(2) answers.
pub fn read_more(fd: impl AsFd, bytes: &mut Vec<u8>, most: usize) -> nix::Result<usize> {
    fill(bytes, most, |place| read_into(fd.as_fd(), place))
}

fn read_into(fd: BorrowedFd<'_>, place: &mut [MaybeUninit<u8>]) -> nix::Result<usize> {
    // SAFETY: the kernel writes at most so many bytes to the place, which is borrowed until it has.
    let answer = unsafe { libc::read(fd.as_raw_fd(), place.as_mut_ptr().cast(), place.len()) };
    Errno::result(answer).map(isize::unsigned_abs)
}

/// Lets the kernel write to room for `most` bytes at the end of `bytes`, which then has what was written: memory that nobody
/// uses is never cleared, so that it costs no page.
fn fill(
    bytes: &mut Vec<u8>,
    most: usize,
    write: impl FnOnce(&mut [MaybeUninit<u8>]) -> nix::Result<usize>,
) -> nix::Result<usize> {
    bytes.reserve_exact(most);
    let place = bytes.spare_capacity_mut().get_mut(..most).unwrap_or_default();
    let count = write(place)?.min(place.len());
    // SAFETY: the kernel has written so many bytes behind the ones that were there, and they are within the capacity.
    unsafe { bytes.set_len(bytes.len() + count) };
    Ok(count)
}

/// What the kernel writes to room for 4 KiB on the stack: nothing is allocated but what there is. musl gives each larger buffer
/// mappings of its own, and takes them away with it.
fn short(write: impl FnOnce(&mut [MaybeUninit<u8>]) -> nix::Result<usize>) -> nix::Result<Vec<u8>> {
    let mut place = [MaybeUninit::<u8>::uninit(); 4 << 10];
    let count = write(&mut place)?.min(place.len());
    // SAFETY: the kernel has written so many bytes, and they are within the place.
    Ok(unsafe { std::slice::from_raw_parts(place.as_ptr().cast::<u8>(), count) }.to_vec())
}

/// Reads once, at most 4 KiB: read(2).
///
/// # Errors
/// Whatever read(2) answers.
pub fn read_once(fd: impl AsFd) -> nix::Result<Vec<u8>> {
    short(|place| read_into(fd.as_fd(), place))
}

const NAMES: usize = 32 << 10;

/// Names in an open directory, from its beginning, in the kernel's order.
///
/// # Errors
/// Whatever lseek(2) or getdents64(2) answer; `EBADF` for one that is open as a place.
pub fn read_directory(directory: impl AsFd, most: usize) -> Result<Vec<(OsString, Option<Kind>)>> {
    nix::unistd::lseek(directory.as_fd(), 0, nix::unistd::Whence::SeekSet).named("lseek", "a directory")?;
    read_on(directory, most)
}

/// Names in an open directory, from where it was read to: for one that was just opened. getdents64(2).
///
/// # Errors
/// Whatever getdents64(2) answers.
pub fn read_on(directory: impl AsFd, most: usize) -> Result<Vec<(OsString, Option<Kind>)>> {
    // struct linux_dirent64: d_ino, d_off, d_reclen at 16, d_type at 18, d_name from 19 on.
    const LENGTH: usize = 16;
    const TYPE: usize = 18;
    const NAME: usize = 19;
    let fd = directory.as_fd();
    let mut buffer = Vec::new();
    let mut names = Vec::new();
    loop {
        buffer.clear();
        fill(&mut buffer, NAMES, |place| {
            // SAFETY: the kernel writes at most so many bytes to the place, which is borrowed until it has.
            let answer =
                unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), place.as_mut_ptr(), place.len()) };
            Errno::result(answer).map(|count| count as usize)
        })
        .named("getdents64", "")?;
        let mut rest = &buffer[..];
        if rest.is_empty() {
            return Ok(names);
        }
        while let Some(length) = rest.get(LENGTH..TYPE) {
            let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
            let Some(entry) = rest.get(..length).filter(|entry| entry.len() > NAME) else { break };
            let name = entry[NAME..].split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                let kind = match entry[TYPE] {
                    libc::DT_UNKNOWN => None,
                    libc::DT_DIR => Some(Kind::Directory),
                    _ => Some(Kind::Other),
                };
                names.push((OsStr::from_bytes(name).to_owned(), kind));
                if names.len() == most {
                    return Ok(names);
                }
            }
            rest = &rest[length..];
        }
    }
}

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// A detached copy of the mount tree below `fd`, its submounts included: open_tree(2).
///
/// # Errors
/// Whatever open_tree(2) answers; `EINVAL` for unbindable mounts.
pub fn clone_tree(fd: impl AsFd) -> Result<OwnedFd> {
    open_tree(fd.as_fd(), AT_RECURSIVE)
}

/// A detached copy of the mount below `fd`, without its submounts: open_tree(2).
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_mount(fd: impl AsFd) -> Result<OwnedFd> {
    open_tree(fd.as_fd(), 0)
}

fn open_tree(fd: BorrowedFd<'_>, flags: libc::c_uint) -> Result<OwnedFd> {
    let flags = flags | OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: an empty NUL-terminated path with AT_EMPTY_PATH, and an open descriptor.
    let answer = unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) };
    let raw = Errno::result(answer).named("open_tree", "")?;
    // SAFETY: a successful open_tree returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) })
}

const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// Attaches a detached tree on a directory, descriptor to descriptor: move_mount(2).
///
/// # Errors
/// Whatever move_mount(2) answers; `ENOENT` when the directory was removed in between.
pub fn move_mount(tree: impl AsFd, onto: impl AsFd) -> Result<()> {
    // SAFETY: both paths are empty, NUL-terminated and flagged as such; both descriptors are open.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            onto.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(answer).map(drop).named("move_mount", "")
}

const MOVE_MOUNT_SET_GROUP: libc::c_uint = 0x100;

/// Makes a private mount propagate as another of the same filesystem does, in place: move_mount(2) with
/// `MOVE_MOUNT_SET_GROUP` (Linux 5.15). Each may be in any mount namespace over which the caller has CAP_SYS_ADMIN.
///
/// # Errors
/// `EINVAL` where `to` is not private, `from` is, one of them is no mount's root, or the kernel does not know it.
pub fn set_group(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH | MOVE_MOUNT_SET_GROUP;
    // SAFETY: both paths are empty, NUL-terminated and flagged as such; both descriptors are open.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_fd().as_raw_fd(),
            c"".as_ptr(),
            to.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(answer).map(drop).named("move_mount", "MOVE_MOUNT_SET_GROUP")
}

/// Propagation to give a mount, as in mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetPropagation {
    /// Receives from the host, never sends. A private mount stays private.
    Slave,
    /// Neither receives nor sends.
    Private,
    /// Receives and sends.
    Shared,
    /// As it is.
    Keep,
}

/// Per-mount attributes to set; what is `false` is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_RDONLY`.
    pub read_only: bool,
    /// `MOUNT_ATTR_NOSUID`.
    pub nosuid: bool,
    /// `MOUNT_ATTR_NODEV`.
    pub nodev: bool,
    /// `MOUNT_ATTR_NOEXEC`.
    pub noexec: bool,
}

impl MountAttributes {
    /// What either has.
    #[must_use]
    pub fn and(self, other: MountAttributes) -> MountAttributes {
        MountAttributes {
            read_only: self.read_only || other.read_only,
            nosuid: self.nosuid || other.nosuid,
            nodev: self.nodev || other.nodev,
            noexec: self.noexec || other.noexec,
        }
    }

    fn bits(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(self.read_only, 0x1) | bit(self.nosuid, 0x2) | bit(self.nodev, 0x4) | bit(self.noexec, 0x8)
    }
}

/// A detached mount of a new, empty filesystem in memory that is never swapped out: fsopen(2), fsconfig(2), fsmount(2).
/// tmpfs with `noswap` (Linux 6.4), else ramfs. Its root has mode 0700, and everything in it this SELinux label.
///
/// # Errors
/// Whatever these answer.
pub fn memory_filesystem(attributes: MountAttributes, label: Option<&str>) -> Result<OwnedFd> {
    let label = label.map(CString::new).transpose().map_err(|_| Errno::EINVAL).named("context", "")?;
    let (noswap, mode) = ((c"noswap", None), (c"mode", Some(c"0700")));
    let context = label.as_deref().map(|label| (c"context", Some(label)));
    let options: Vec<(&CStr, Option<&CStr>)> = [noswap, mode].into_iter().chain(context).collect();
    match new_filesystem(c"tmpfs", &options, attributes) {
        Err(error) if error.errno == Errno::EINVAL => new_filesystem(c"ramfs", &options[1..], attributes),
        answer => answer,
    }
}

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

fn new_filesystem(kind: &CStr, options: &[(&CStr, Option<&CStr>)], attributes: MountAttributes) -> Result<OwnedFd> {
    let cloexec: libc::c_uint = 1;
    // SAFETY: `kind` is NUL-terminated.
    let answer = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), cloexec) };
    let raw = Errno::result(answer).named("fsopen", format_args!("{kind:?}"))?;
    // SAFETY: a successful fsopen returns a new descriptor that nobody else owns.
    let context = unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) };
    let configure = |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: key and value are NULL or NUL-terminated, as the command wants them; the descriptor is open.
        let answer = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
        Errno::result(answer).map(drop).named("fsconfig", format_args!("{kind:?}"))
    };
    for (key, value) in options {
        match value {
            None => configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())?,
            Some(value) => configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?,
        }
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: no pointers; the descriptor is open.
    let answer = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), cloexec, attributes.bits()) };
    let raw = Errno::result(answer).named("fsmount", format_args!("{kind:?}"))?;
    // SAFETY: a successful fsmount returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) })
}

/// Lets a command begin with no signal blocked, whatever this process holds back.
pub fn unblock_signals(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let unblock = || Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?);
    // SAFETY: between fork and exec it calls pthread_sigmask(3) alone, which is async-signal-safe.
    unsafe { command.pre_exec(unblock) };
}

/// Lets a command begin in a user namespace of its own, which has no ids yet.
pub fn in_user_namespace(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let leave = || Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?);
    // SAFETY: between fork and exec it makes one system call, unshare(2), and allocates nothing.
    unsafe { command.pre_exec(leave) };
}

/// Leaves this process's mount namespace for a copy of its own: unshare(2). The caller must have one thread.
///
/// # Errors
/// Whatever unshare(2) answers.
pub fn leave_mount_namespace() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).named("unshare", "a mount namespace")
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct RawMountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes and propagation on a mount and, if `recursive`, on all below it, at once.
///
/// # Errors
/// Whatever mount_setattr(2) answers; `ENOSYS` before Linux 5.12.
pub fn mount_setattr(
    mount: impl AsFd,
    attributes: MountAttributes,
    propagation: SetPropagation,
    recursive: bool,
) -> Result<()> {
    let propagation = match propagation {
        SetPropagation::Slave => libc::MS_SLAVE,
        SetPropagation::Private => libc::MS_PRIVATE,
        SetPropagation::Shared => libc::MS_SHARED,
        SetPropagation::Keep => 0,
    };
    let raw = RawMountAttr { attr_set: attributes.bits(), attr_clr: 0, propagation, userns_fd: 0 };
    raw_mount_setattr(mount.as_fd(), &raw, recursive)
}

/// Makes a detached mount writable, and private: a copy of one that is read-only elsewhere.
///
/// # Errors
/// Whatever mount_setattr(2) answers.
pub fn make_writable(mount: impl AsFd) -> Result<()> {
    let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
    let raw = RawMountAttr { attr_set: 0, attr_clr: read_only.bits(), propagation: libc::MS_PRIVATE, userns_fd: 0 };
    raw_mount_setattr(mount.as_fd(), &raw, false)
}

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Maps the ids of a detached tree, and of all that is mounted in it, by a user namespace: what belongs to id N on
/// disk belongs to N in that namespace.
///
/// # Errors
/// Whatever mount_setattr(2) answers: `EINVAL` where a filesystem in the tree cannot be mapped, `EPERM` where its
/// superblock belongs to a user namespace in which the caller has no CAP_SYS_ADMIN.
pub fn idmap(tree: impl AsFd, user_namespace: impl AsFd) -> Result<()> {
    let userns_fd = user_namespace.as_fd().as_raw_fd() as u64;
    let raw = RawMountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    raw_mount_setattr(tree.as_fd(), &raw, true)
}

fn raw_mount_setattr(mount: BorrowedFd<'_>, raw: &RawMountAttr, recursive: bool) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the struct matches the kernel's first version, whose size is passed; the path is empty.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(raw),
            size_of::<RawMountAttr>(),
        )
    };
    Errno::result(answer).map(drop).named("mount_setattr", "")
}

/// How a mount propagates, as statmount(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// It sends to and receives from a peer group.
    pub shared: bool,
    /// It receives from a master group.
    pub slave: bool,
    /// The peer group, where it has one.
    pub group: Option<u64>,
}

/// `struct mnt_id_req` of statmount(2), first version.
#[repr(C)]
struct MntIdReq {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

/// The head of `struct statmount`, padded to more than any kernel fills without strings.
#[repr(C)]
struct RawStatmount {
    size: u32,
    mnt_opts: u32,
    mask: u64,
    sb_dev_major: u32,
    sb_dev_minor: u32,
    sb_magic: u64,
    sb_flags: u32,
    fs_type: u32,
    mnt_id: u64,
    mnt_parent_id: u64,
    mnt_id_old: u32,
    mnt_parent_id_old: u32,
    mnt_attr: u64,
    mnt_propagation: u64,
    mnt_peer_group: u64,
    rest: [u64; 63],
}

const SYS_STATMOUNT: libc::c_long = 457;
const STATMOUNT_MNT_BASIC: u64 = 0x2;

/// How a mount propagates, or `None` where the kernel (before Linux 6.8) cannot tell without reading the whole mount
/// table.
#[must_use]
pub fn propagation_of(mount: MountId) -> Option<Propagation> {
    if !mount.is_unique {
        return None;
    }
    let request =
        MntIdReq { size: size_of::<MntIdReq>() as u32, spare: 0, mnt_id: mount.id, param: STATMOUNT_MNT_BASIC };
    let mut answer = MaybeUninit::<RawStatmount>::zeroed();
    // SAFETY: request and answer are live for the call, and their true sizes are passed.
    let result =
        unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, answer.as_mut_ptr(), size_of::<RawStatmount>(), 0) };
    if result != 0 {
        return None;
    }
    // SAFETY: zeroed, then filled by the kernel; every bit pattern is valid.
    let answer = unsafe { answer.assume_init() };
    (answer.mask & STATMOUNT_MNT_BASIC != 0).then_some(Propagation {
        shared: answer.mnt_propagation & libc::MS_SHARED != 0,
        slave: answer.mnt_propagation & libc::MS_SLAVE != 0,
        group: Some(answer.mnt_peer_group).filter(|group| *group != 0),
    })
}

/// A descriptor for a process, immune to reuse of its number: pidfd_open(2).
///
/// # Errors
/// `ESRCH` where there is no such process.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = Errno::result(answer).named("pidfd_open", pid)?;
    // SAFETY: a successful pidfd_open returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) })
}

/// Whether the process's whole thread group has ended; a zombie has.
///
/// # Errors
/// Whatever poll(2) answers.
pub fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    ends_within(pidfd, 0)
}

/// Whether the process's whole thread group ends within so many milliseconds.
///
/// # Errors
/// Whatever poll(2) answers.
pub fn ends_within(pidfd: impl AsFd, milliseconds: u16) -> Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(|ready| ready > 0).named("poll", "a process"),
        }
    }
}

/// Ends a process: pidfd_send_signal(2) with SIGKILL.
///
/// # Errors
/// `ESRCH` where it has ended already.
pub fn kill(pidfd: impl AsFd) -> Result<()> {
    // SAFETY: the siginfo pointer may be null; the rest are integers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(answer).map(drop).named("pidfd_send_signal", "")
}

/// Closes every descriptor above standard error: what a runtime leaked is not ours to hold
/// (CVE-2024-21626). Must run before this process opens anything it wants to keep.
///
/// # Errors
/// Whatever close_range(2) answers.
pub fn close_inherited() -> Result<()> {
    // SAFETY: called first in a hook, before any owned descriptor above 2 exists.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    Errno::result(answer).map(drop).named("close_range", "")
}

/// Enters a mount namespace: setns(2). The caller must have one thread.
///
/// # Errors
/// Whatever setns(2) answers.
pub fn enter_mount_namespace(namespace: impl AsFd) -> Result<()> {
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS).named("setns", "a mount namespace")
}

/// The user namespace that owns a namespace: ioctl_ns(2).
///
/// # Errors
/// `EPERM` where that is above this process's own.
pub fn owner_of(namespace: impl AsFd) -> Result<OwnedFd> {
    related(namespace.as_fd(), nix::request_code_none!(0xb7, 1))
}

/// The namespace above a user or pid namespace: ioctl_ns(2).
///
/// # Errors
/// `EPERM` where that is above this process's own, or there is none.
pub fn parent_of(namespace: impl AsFd) -> Result<OwnedFd> {
    related(namespace.as_fd(), nix::request_code_none!(0xb7, 2))
}

fn related(namespace: BorrowedFd<'_>, request: libc::c_ulong) -> Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS and NS_GET_PARENT take no argument.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), request as _) };
    let raw = Errno::result(answer).named("ioctl", "a namespace")?;
    // SAFETY: these requests return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What two tasks may share: kcmp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Common {
    /// Their open files.
    Files = 2,
    /// Their working and root directories.
    Directories = 3,
}

/// Whether two tasks share that; not where the kernel does not tell.
#[must_use]
pub fn have_in_common(one: i32, other: i32, what: Common) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, what as libc::c_int, 0, 0) == 0 }
}

/// Detaches the mount whose root is `mount`, in the current mount namespace. There is no umount2(2) for a descriptor, and a
/// mount may be a file: the link to it in `/proc/self/fd` is what is named.
///
/// # Errors
/// Whatever fchdir(2) or umount2(2) answers.
pub fn detach_mount(proc_fds: impl AsFd, mount: impl AsFd) -> Result<()> {
    nix::unistd::fchdir(proc_fds).named("fchdir", "/proc/self/fd")?;
    let name = mount.as_fd().as_raw_fd().to_string();
    let answer = nix::mount::umount2(name.as_str(), nix::mount::MntFlags::MNT_DETACH).named("umount2", "a mount");
    nix::unistd::chdir("/").named("chdir", "/")?;
    answer
}

/// Where a descriptor lies, as seen from this process's root: readlink of `/proc/self/fd/N` through a
/// directory that was opened earlier, so that it works in every mount namespace.
///
/// # Errors
/// Whatever readlinkat(2) answers.
pub fn path_of(proc_fds: impl AsFd, fd: impl AsFd) -> Result<OsString> {
    let name = fd.as_fd().as_raw_fd().to_string();
    readlink_at(proc_fds, name)
}

/// Opens `/proc/self/fd`, for [`path_of`] and [`detach_mount`].
///
/// # Errors
/// Whatever openat2(2) answers.
pub fn open_proc_fds() -> Result<OwnedFd> {
    open_below(cwd(), Path::new("/proc/self/fd"), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Resolve::NoMagic)
}

/// The directory that absolute paths do not need: for [`open_below`] with an absolute path.
#[must_use]
pub fn cwd() -> BorrowedFd<'static> {
    nix::fcntl::AT_FDCWD
}

/// Makes a directory; the process's umask must be 0 for `mode` to be exact.
///
/// # Errors
/// Whatever mkdirat(2) answers; `EEXIST` where the name is taken.
pub fn mkdir_at(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> Result<()> {
    let name = name.as_ref();
    nix::sys::stat::mkdirat(dir, name, Mode::from_bits_truncate(mode)).named("mkdirat", format_args!("{name:?}"))
}

/// Makes a symbolic link.
///
/// # Errors
/// Whatever symlinkat(2) answers.
pub fn symlink_at(dir: impl AsFd, name: impl AsRef<OsStr>, target: &Path) -> Result<()> {
    let name = name.as_ref();
    nix::unistd::symlinkat(target, dir, name).named("symlinkat", format_args!("{name:?}"))
}

/// Reads a symbolic link.
///
/// # Errors
/// `EINVAL` where it is none.
pub fn readlink_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OsString> {
    let name = name.as_ref();
    let read = || {
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let dir = dir.as_fd().as_raw_fd();
        // One that fills the room is cut: PATH_MAX with its NUL is as large.
        let path = short(|place| {
            // SAFETY: `name` is NUL-terminated, and the kernel writes at most the length that is passed.
            let answer = unsafe { libc::readlinkat(dir, name.as_ptr(), place.as_mut_ptr().cast(), place.len()) };
            Errno::result(answer).map(isize::unsigned_abs)
        })?;
        if path.len() < 4 << 10 { Ok(OsString::from_vec(path)) } else { Err(Errno::ENAMETOOLONG) }
    };
    read().named("readlinkat", format_args!("{name:?}"))
}

/// Removes a name: a directory if `directory`, anything else otherwise.
///
/// # Errors
/// Whatever unlinkat(2) answers.
pub fn unlink_at(dir: impl AsFd, name: &OsStr, directory: bool) -> Result<()> {
    use nix::unistd::UnlinkatFlags;
    let flag = if directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    nix::unistd::unlinkat(dir, name, flag).named("unlinkat", format_args!("{name:?}"))
}

/// Gives a name to what has another, if it is free: renameat2(2) with `RENAME_NOREPLACE`.
///
/// # Errors
/// `EEXIST` where the new name is taken.
pub fn rename_new(from: impl AsFd, old: &OsStr, to: impl AsFd, new: &OsStr) -> Result<()> {
    // By its number: musl before 1.2.5 has no function for it, so the crates have none either.
    let text = |name: &OsStr| CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL);
    let rename = || {
        let (old, new) = (text(old)?, text(new)?);
        let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
        // SAFETY: both names are NUL-terminated and both descriptors are open.
        let answer =
            unsafe { libc::syscall(libc::SYS_renameat2, from, old.as_ptr(), to, new.as_ptr(), libc::RENAME_NOREPLACE) };
        Errno::result(answer).map(drop)
    };
    rename().named("renameat2", format_args!("{new:?}"))
}

/// Renames over whatever has the new name.
///
/// # Errors
/// Whatever renameat(2) answers.
pub fn rename_over(dir: impl AsFd, old: &str, new: &str) -> Result<()> {
    nix::fcntl::renameat(dir.as_fd(), old, dir.as_fd(), new).named("renameat", format_args!("{new:?}"))
}

/// Renames to another directory, over whatever has the new name there.
///
/// # Errors
/// Whatever renameat(2) answers.
pub fn rename_to(from: impl AsFd, old: &str, to: impl AsFd, new: &str) -> Result<()> {
    nix::fcntl::renameat(from.as_fd(), old, to.as_fd(), new).named("renameat", format_args!("{new:?}"))
}

/// Sets owner and group of what is open (`O_PATH` included), never by path (CVE-2024-9341).
///
/// # Errors
/// Whatever fchownat(2) answers.
pub fn chown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    use nix::unistd::{Gid, Uid};
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    nix::unistd::fchownat(fd, "", uid, gid, AtFlags::AT_EMPTY_PATH).named("fchownat", "")
}

/// Sets the group of what is open (`O_PATH` included), and leaves its owner.
///
/// # Errors
/// Whatever fchownat(2) answers.
pub fn chgrp(fd: impl AsFd, gid: u32) -> Result<()> {
    let gid = Some(nix::unistd::Gid::from_raw(gid));
    nix::unistd::fchownat(fd, "", None, gid, AtFlags::AT_EMPTY_PATH).named("fchownat", "")
}

/// Sets the permission bits of a directory that was opened for reading.
///
/// # Errors
/// Whatever fchmod(2) answers.
pub fn chmod(fd: impl AsFd, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode)).named("fchmod", "")
}

/// Opens or makes a regular file below a directory of ours; links are never followed.
///
/// # Errors
/// Whatever openat(2) answers.
pub fn open_file_at(dir: impl AsFd, name: impl AsRef<OsStr>, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    let name = name.as_ref();
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    nix::fcntl::openat(dir, name, flags, Mode::from_bits_truncate(mode)).named("openat", format_args!("{name:?}"))
}

/// Writes a directory's or file's data and metadata to disk: fsync(2).
///
/// # Errors
/// Whatever fsync(2) answers.
pub fn fsync(fd: impl AsFd) -> Result<()> {
    nix::unistd::fsync(fd).named("fsync", "")
}

/// Locks an open file against other holders, waiting for them; freed when the last copy is closed.
///
/// # Errors
/// `EWOULDBLOCK` where `wait` is false and somebody has it.
pub fn lock(fd: impl AsFd, wait: bool) -> Result<()> {
    let how = if wait { libc::LOCK_EX } else { libc::LOCK_EX | libc::LOCK_NB };
    loop {
        // SAFETY: no pointers.
        let answer = unsafe { libc::flock(fd.as_fd().as_raw_fd(), how) };
        match Errno::result(answer) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(drop).named("flock", ""),
        }
    }
}

/// Seconds since the epoch of the last modification, in the past whatever the file's owner says.
///
/// # Errors
/// Whatever statx(2) answers.
pub fn modified(fd: impl AsFd) -> Result<i64> {
    // An owner can set the one to any time, and the other to none but now.
    raw_statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH, libc::STATX_MTIME | libc::STATX_CTIME)
        .map(|raw| raw.stx_mtime.tv_sec.min(raw.stx_ctime.tv_sec))
        .named("statx", "")
}

/// Reads an extended attribute of at most 4 KiB; `None` where the file has none of this name.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no extended attributes, `ERANGE` where it is larger, or whatever else
/// fgetxattr(2) answers.
pub fn get_xattr(fd: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>> {
    let fd = fd.as_fd().as_raw_fd();
    let answer = short(|place| {
        // SAFETY: `name` is NUL-terminated, and the kernel writes at most the length that is passed.
        let answer = unsafe { libc::fgetxattr(fd, name.as_ptr(), place.as_mut_ptr().cast(), place.len()) };
        Errno::result(answer).map(isize::unsigned_abs)
    });
    match answer {
        Err(Errno::ENODATA) => Ok(None),
        answer => answer.map(Some).named("fgetxattr", format_args!("{name:?}")),
    }
}

/// Sets an extended attribute.
///
/// # Errors
/// As [`get_xattr`]; `EPERM` for `trusted.` without CAP_SYS_ADMIN in the first user namespace.
pub fn set_xattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: `name` is NUL-terminated, and the kernel reads the length that is passed.
    let answer =
        unsafe { libc::fsetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(answer).map(drop).named("fsetxattr", format_args!("{name:?}"))
}

/// Removes an extended attribute, if it is there.
///
/// # Errors
/// As [`set_xattr`].
pub fn remove_xattr(fd: impl AsFd, name: &CStr) -> Result<()> {
    // SAFETY: `name` is NUL-terminated.
    let answer = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    match Errno::result(answer) {
        Err(Errno::ENODATA) => Ok(()),
        answer => answer.map(drop).named("fremovexattr", format_args!("{name:?}")),
    }
}

/// The magic link that leads to what a descriptor is, whatever that is: calls for extended attributes take no descriptor that
/// was opened as a place.
fn magic_link(fd: BorrowedFd<'_>) -> Result<CString> {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|_| Errno::EINVAL).named("/proc/self/fd", "")
}

/// Names of the extended attributes of anything that is open, as a place too. listxattr(2).
///
/// # Errors
/// What listxattr(2) answers; none where the filesystem has none.
pub fn list_xattrs(fd: impl AsFd) -> Result<Vec<CString>> {
    // As long as the kernel lets a list be (XATTR_LIST_MAX).
    let mut names = vec![0_u8; 64 << 10];
    let link = magic_link(fd.as_fd())?;
    // SAFETY: `link` is NUL-terminated, and the kernel writes at most the length that is passed.
    let answer = unsafe { libc::listxattr(link.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    match Errno::result(answer) {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        answer => {
            names.truncate(answer.named("listxattr", "")?.unsigned_abs());
            Ok(names
                .split_inclusive(|byte| *byte == 0)
                .filter_map(|name| CString::from_vec_with_nul(name.to_vec()).ok())
                .collect())
        }
    }
}

/// An extended attribute of anything that is open, as a place too; `None` where it has none of that name. getxattr(2).
///
/// # Errors
/// What getxattr(2) answers.
pub fn xattr_of(fd: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>> {
    // As long as the kernel lets a value be (XATTR_SIZE_MAX).
    let mut value = vec![0_u8; 64 << 10];
    let link = magic_link(fd.as_fd())?;
    // SAFETY: both strings are NUL-terminated, and the kernel writes at most the length that is passed.
    let answer = unsafe { libc::getxattr(link.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match Errno::result(answer) {
        Err(Errno::ENODATA) => Ok(None),
        answer => {
            value.truncate(answer.named("getxattr", format_args!("{name:?}"))?.unsigned_abs());
            Ok(Some(value))
        }
    }
}

/// Sets an extended attribute of anything that is open, as a place too. setxattr(2).
///
/// # Errors
/// What setxattr(2) answers.
pub fn give_xattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    let link = magic_link(fd.as_fd())?;
    // SAFETY: both strings are NUL-terminated, and the kernel reads the length that is passed.
    let answer = unsafe { libc::setxattr(link.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(answer).map(drop).named("setxattr", format_args!("{name:?}"))
}

/// What a name in a directory is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A named pipe.
    Fifo,
    /// A character device of these numbers.
    Character(u32, u32),
    /// A block device of these numbers.
    Block(u32, u32),
}

/// Makes a named pipe or a device. mknodat(2).
///
/// # Errors
/// What mknodat(2) answers.
pub fn make_node(dir: impl AsFd, name: &OsStr, node: Node, mode: u32) -> Result<()> {
    use nix::sys::stat::SFlag;
    let (kind, device) = match node {
        Node::Fifo => (SFlag::S_IFIFO, 0),
        Node::Character(major, minor) => (SFlag::S_IFCHR, libc::makedev(major, minor)),
        Node::Block(major, minor) => (SFlag::S_IFBLK, libc::makedev(major, minor)),
    };
    nix::sys::stat::mknodat(dir, name, kind, Mode::from_bits_truncate(mode), device)
        .named("mknodat", format_args!("{name:?}"))
}

/// Sets the permission bits of a name in a directory, which must be no link: there, it would be followed. fchmodat(2).
///
/// # Errors
/// What fchmodat(2) answers.
pub fn chmod_at(dir: impl AsFd, name: &OsStr, mode: u32) -> Result<()> {
    use nix::sys::stat::FchmodatFlags::FollowSymlink;
    nix::sys::stat::fchmodat(dir, name, Mode::from_bits_truncate(mode), FollowSymlink)
        .named("fchmodat", format_args!("{name:?}"))
}

/// Gives what is open another name. linkat(2).
///
/// # Errors
/// What linkat(2) answers.
pub fn link_to(fd: impl AsFd, dir: impl AsFd, name: &OsStr) -> Result<()> {
    // By the magic link: without CAP_DAC_READ_SEARCH, as a user has it, an empty path is refused.
    let link = magic_link(fd.as_fd())?;
    nix::unistd::linkat(cwd(), link.as_c_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)
        .named("linkat", format_args!("{name:?}"))
}

/// When something was last modified: seconds since the epoch, and nanoseconds from there on. statx(2).
///
/// # Errors
/// Whatever statx(2) answers.
pub fn modified_at(fd: impl AsFd) -> Result<(i64, u32)> {
    raw_statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH, libc::STATX_MTIME | libc::STATX_MNT_ID)
        .map(|raw| (raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec))
        .named("statx", "")
}

/// Major and minor number of a device. statx(2).
///
/// # Errors
/// Whatever statx(2) answers.
pub fn device_of(fd: impl AsFd) -> Result<(u32, u32)> {
    raw_statx(fd.as_fd(), c"", libc::AT_EMPTY_PATH, libc::STATX_BASIC_STATS | libc::STATX_MNT_ID)
        .map(|raw| (raw.stx_rdev_major, raw.stx_rdev_minor))
        .named("statx", "")
}

/// Says when something was last modified, a link itself and not what it leads to. utimensat(2).
///
/// # Errors
/// What utimensat(2) answers.
pub fn set_modified(dir: impl AsFd, name: &OsStr, (seconds, nanoseconds): (i64, u32)) -> Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let time = TimeSpec::new(seconds, nanoseconds.into());
    utimensat(dir, name, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::NoFollowSymlink)
        .named("utimensat", format_args!("{name:?}"))
}

/// The next byte that a file has, and the hole or end after it, from this place on; `None` where only a hole is left.
/// lseek(2) with SEEK_DATA and SEEK_HOLE.
///
/// # Errors
/// What lseek(2) answers.
pub fn next_data(file: impl AsFd, from: u64) -> Result<Option<(u64, u64)>> {
    use nix::unistd::{Whence, lseek};
    let offset = |place: u64| i64::try_from(place).map_err(|_| Errno::EOVERFLOW).named("lseek", "");
    let begin = match lseek(file.as_fd(), offset(from)?, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        answer => answer.named("lseek", "SEEK_DATA")?,
    };
    let end = lseek(file.as_fd(), begin, Whence::SeekHole).named("lseek", "SEEK_HOLE")?;
    Ok(Some((begin.unsigned_abs(), end.unsigned_abs())))
}

/// Writes everything of a filesystem to its disk. syncfs(2).
///
/// # Errors
/// What syncfs(2) answers.
pub fn sync_filesystem(fd: impl AsFd) -> Result<()> {
    nix::unistd::syncfs(fd).named("syncfs", "")
}

/// Sets the last modification to now.
///
/// # Errors
/// Whatever utimensat(2) answers.
pub fn touch(fd: impl AsFd) -> Result<()> {
    use nix::sys::time::TimeSpec;
    nix::sys::stat::futimens(fd, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW).named("futimens", "")
}

/// How much of a filesystem is in use, from 0 to 1, as df(1) counts: what only root may fill is in use.
///
/// # Errors
/// Whatever fstatfs(2) answers.
pub fn usage(fd: impl AsFd) -> Result<f64> {
    let raw = nix::sys::statfs::fstatfs(fd).named("fstatfs", "")?;
    let used = raw.blocks().saturating_sub(raw.blocks_free()) as f64;
    let total = used + raw.blocks_available() as f64;
    Ok(if total > 0.0 { used / total } else { 0.0 })
}

/// Bytes of a filesystem that are in use.
///
/// # Errors
/// Whatever fstatfs(2) answers.
pub fn used_bytes(fd: impl AsFd) -> Result<u64> {
    let raw = nix::sys::statfs::fstatfs(fd).named("fstatfs", "")?;
    Ok(raw.blocks().saturating_sub(raw.blocks_free()) * u64::try_from(raw.block_size()).unwrap_or(0))
}

/// Opens the mount table of the namespace that this process is in, through `/proc/self/fd` opened earlier.
///
/// # Errors
/// Whatever openat2(2) answers.
pub fn open_mount_table(proc_fds: impl AsFd) -> Result<OwnedFd> {
    open_below(proc_fds, Path::new("../mountinfo"), OFlag::O_RDONLY, Resolve::NoMagic)
}

/// Opens the mount namespace that this process is in, likewise.
///
/// # Errors
/// Whatever openat(2) answers.
pub fn open_mount_namespace(proc_fds: impl AsFd) -> Result<OwnedFd> {
    // A magic link, which none of ours resolves.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(proc_fds, "../ns/mnt", flags, Mode::empty()).named("openat", "ns/mnt")
}

/// The type of filesystem that `fd` lies on, by its magic number (statfs(2)), and its mount's flags.
///
/// # Errors
/// Whatever fstatfs(2) answers.
pub fn filesystem(fd: impl AsFd) -> Result<Filesystem> {
    let raw = nix::sys::statfs::fstatfs(fd).named("fstatfs", "")?;
    let flags = raw.flags();
    use nix::sys::statvfs::FsFlags;
    Ok(Filesystem {
        magic: raw.filesystem_type().0 as i64,
        // SAFETY: fsid_t is two ints, in which every bit pattern is valid.
        id: unsafe { std::mem::transmute::<libc::fsid_t, u64>(raw.filesystem_id()) },
        attributes: MountAttributes {
            read_only: flags.contains(FsFlags::ST_RDONLY),
            nosuid: flags.contains(FsFlags::ST_NOSUID),
            nodev: flags.contains(FsFlags::ST_NODEV),
            noexec: flags.contains(FsFlags::ST_NOEXEC),
        },
    })
}

/// What [`filesystem`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// Magic number, statfs(2).
    pub magic: i64,
    /// Its id, which most filesystems keep on disk.
    pub id: u64,
    /// Attributes of the mount it was reached through.
    pub attributes: MountAttributes,
}

impl Filesystem {
    /// Whether it is a cgroup hierarchy, of either version.
    #[must_use]
    pub fn is_cgroup(&self) -> bool {
        [0x27_e0eb, 0x6367_7270].contains(&self.magic)
    }

    /// Whether it is one of the kernel's own interfaces, on which nothing is ever mounted by a hook
    /// (CVE-2019-16884, CVE-2023-28642): proc, sysfs, cgroup, devpts and their kin.
    #[must_use]
    pub fn is_kernel_interface(&self) -> bool {
        const MAGICS: [i64; 12] = [
            0x9fa0,      // proc
            0x6265_6572, // sysfs
            0x27_e0eb,   // cgroup
            0x6367_7270, // cgroup2
            0x1cd1,      // devpts
            0x6462_6720, // debugfs
            0x7472_6163, // tracefs
            0x7363_6673, // securityfs
            0xf97c_ff8c, // selinuxfs
            0xcafe_4a11, // bpf
            0x6165_676c, // pstore
            0x6e73_6673, // nsfs
        ];
        MAGICS.contains(&self.magic)
    }
}

/// Readies the process for work whatever it inherited: umask 0 (crun gives it, others do not), no signal blocked (crun
/// blocks nearly all) but SIGPIPE: who writes to what nobody reads is told so.
///
/// # Errors
/// Whatever sigprocmask(2) answers.
pub fn reset_process() -> Result<()> {
    reset_umask();
    nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGPIPE).thread_set_mask().named("sigprocmask", "")
}

/// Raises the soft limit of descriptors to the hard one: it is for programs that use select(2).
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Effective user and group with which this process was started, which it never changes: getauxval(3), no system call.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: getauxval reads what the kernel has put beside the environment.
    let value = |kind| unsafe { libc::getauxval(kind) } as u32;
    (value(libc::AT_EUID), value(libc::AT_EGID))
}

/// Ends the process at once: exit(3) would take apart what the kernel frees anyway.
pub fn exit(code: u8) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// Fills a buffer with what nobody can guess.
///
/// # Errors
/// Whatever getrandom(2) answers.
pub fn random(buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the kernel writes at most `rest.len()` bytes, into `rest`.
        let answer = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        filled += usize::try_from(Errno::result(answer).named("getrandom", "")?).unwrap_or(0);
    }
    Ok(())
}

/// Sets the umask to 0, so that modes are what they are given as.
pub fn reset_umask() {
    nix::sys::stat::umask(Mode::empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_tells_file_and_mount() {
        let root = open_place(cwd(), Path::new("/"), Resolve::NoLinks).unwrap();
        let stat = stat(&root).unwrap();
        assert!(stat.is_dir() && stat.mount_root);
        let (number, table) = (mount_number(&root).unwrap(), std::fs::read_to_string("/proc/self/mountinfo").unwrap());
        assert!(table.lines().any(|line| line.starts_with(&format!("{number} ")) && line.contains(" / / ")));
    }

    #[test]
    fn links_are_refused_where_they_must_be() {
        let proc = open_place(cwd(), Path::new("/proc"), Resolve::NoLinks).unwrap();
        let error = open_place(&proc, Path::new("self/root"), Resolve::BeneathNoLinks).unwrap_err();
        assert_eq!(error.errno, Errno::ELOOP);
        assert_eq!(error.to_string(), "openat2 \"self/root\": Too many symbolic links encountered");
    }

    #[test]
    fn proc_is_a_kernel_interface_and_root_is_not() {
        let open = |path| open_place(cwd(), Path::new(path), Resolve::NoLinks).unwrap();
        assert!(filesystem(open("/proc")).unwrap().is_kernel_interface());
        assert!(!filesystem(open("/")).unwrap().is_kernel_interface());
    }

    #[test]
    fn a_process_that_lives_has_not_ended() {
        let me = pidfd_open(std::process::id() as i32).unwrap();
        assert!(!has_ended(&me).unwrap());
    }
}
