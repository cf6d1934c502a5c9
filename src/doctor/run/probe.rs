//! What runs in the throw-away container: it looks at its volume, and answers what it is asked on standard input.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::Path;

use crate::sys::{self, MountAttributes, Resolve};

/// Where the volume is.
pub const VOLUME: &str = "/volume";

/// Files in the volume, and directories that are mounted over.
pub const FROM_HOST: &str = "from-host";
/// What the container writes.
pub const FROM_CONTAINER: &str = "from-container";
/// What the host mounts on later; it has a file [`FROM_HOST`] then.
pub const LATER: &str = "later";
/// What the container mounts on.
pub const INSIDE: &str = "inside";

/// Answers and questions, each a line.
pub const ARRIVED: &str = "arrived";
/// Is the host's later mount there?
pub const LOOK: &str = "look";
/// Mount something below the volume.
pub const MOUNT: &str = "mount";
/// Nothing more.
pub const END: &str = "end";
/// It is so, or is done.
pub const YES: &str = "yes";
/// It is not.
const NO: &str = "no";

/// Answers until there is nobody to ask.
pub fn run(nonce: &str) {
    let say = |line: &str| {
        let mut out = std::io::stdout().lock();
        // Without a reader there is nothing to do either.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    say(&arrived(nonce).err().unwrap_or_else(|| ARRIVED.to_owned()));
    for line in std::io::stdin().lock().lines() {
        match line.as_deref() {
            Ok(LOOK) if Path::new(VOLUME).join(LATER).join(FROM_HOST).exists() => say(YES),
            Ok(LOOK) => say(NO),
            Ok(MOUNT) => say(&mount().map_or_else(|error| error.to_string(), |()| YES.to_owned())),
            _ => return,
        }
    }
}

fn arrived(nonce: &str) -> Result<(), String> {
    let path = |name: &str| Path::new(VOLUME).join(name);
    let found = std::fs::read_to_string(path(FROM_HOST)).map_err(|error| format!("the host's file: {error}"))?;
    if found != nonce {
        return Err("the host's file is another one".to_owned());
    }
    std::fs::write(path(FROM_CONTAINER), nonce).map_err(|error| format!("the container's file: {error}"))
}

fn mount() -> sys::Result<()> {
    let place = sys::open_place(sys::cwd(), &Path::new(VOLUME).join(INSIDE), Resolve::NoLinks)?;
    sys::move_mount(sys::memory_filesystem(MountAttributes::default(), None)?, place)
}
