//! Per-device policy set by the admin: hidden capabilities, and writes that the table alone does not allow.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use pci_registers::{Width, extended_id};

/// Extended capabilities that no guest can use, so that none sees them unless the admin wants it: SR-IOV (functions that were not assigned), and
/// Resizable BAR of a function and of its virtual ones (addresses are the host's). Drivers that find them rely on them.
const USELESS: u64 = 1 << extended_id::SR_IOV | 1 << extended_id::RESIZABLE_BAR | 1 << extended_id::VF_RESIZABLE_BAR;

/// Capabilities that a guest does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// A bit for each id below 32.
    conventional: u32,
    /// A bit for each id below 64.
    extended: u64,
}

impl Default for Hidden {
    fn default() -> Self {
        Self { conventional: 0, extended: USELESS }
    }
}

impl Hidden {
    /// Adds one; false where no such id can be hidden.
    #[must_use]
    pub fn add(&mut self, is_extended: bool, id: u16) -> bool {
        self.set(is_extended, id, true)
    }

    /// Adds one or takes one out; false where no such id can be hidden.
    #[must_use]
    fn set(&mut self, is_extended: bool, id: u16, is_hidden: bool) -> bool {
        match (is_extended, id) {
            (false, 1..32) => self.conventional = self.conventional & !(1 << id) | u32::from(is_hidden) << id,
            (true, 1..64) => self.extended = self.extended & !(1 << id) | u64::from(is_hidden) << id,
            _ => return false,
        }
        true
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contains(self, is_extended: bool, id: u16) -> bool {
        let bits = if is_extended { self.extended } else { self.conventional.into() };
        id < 64 && bits >> id & 1 != 0
    }
}

/// A register that a guest's driver must write: as Linux's `quirks` file has it, with the mask honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirk {
    offset: u16,
    width: Width,
    mask: u32,
}

impl Quirk {
    /// `None` where there is no such register, or bits of the mask are not in it.
    #[must_use]
    pub fn new(offset: u16, width: Width, mask: u32) -> Option<Self> {
        let is_register =
            offset < 4096 && offset.is_multiple_of(width as u16) && mask != 0 && mask & !width.bits() == 0;
        is_register.then_some(Self { offset, width, mask })
    }

    /// Where the register is.
    #[must_use]
    pub const fn offset(&self) -> u16 {
        self.offset
    }

    /// How wide it is.
    #[must_use]
    pub const fn width(&self) -> Width {
        self.width
    }

    /// The bits that may change.
    #[must_use]
    pub const fn mask(&self) -> u32 {
        self.mask
    }
}

/// Displays as `40:4:ffff0000`, without prefixes: offset, width and mask.
impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}:{:x}", self.offset, self.width as u8, self.mask)
    }
}

impl FromStr for Quirk {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let mut numbers = text.split(':').map(hexadecimal);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(offset)), Some(Some(width)), Some(Some(mask)), None) => {
                let width = Width::from_bytes(width).ok_or(BadPolicy)?;
                Self::new(u16::try_from(offset).map_err(|_| BadPolicy)?, width, mask).ok_or(BadPolicy)
            }
            _ => Err(BadPolicy),
        }
    }
}

/// Everything of one device. The default is what the table says.
///
/// Displays and parses as the words of `attach` and of the nodes: `permissive=1,hide=11,show=x10,quirk=40:4:ffff0000`, all numbers
/// hexadecimal, an `x` before ids of extended capabilities. What is hidden and shown by default needs no word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Permissive: every bit may be written with which the guest can harm only its own device.
    pub permissive: bool,
    /// The guest's device model maps vectors by itself and turns MSI and MSI-X on and off, as xen-pciback's `allow_interrupt_control` has it: for
    /// HVM guests, whose device model runs in a stub domain.
    pub interrupt_control: bool,
    /// dom0 resets the function when its guest writes Initiate Function Level Reset of PCI Express. No word of the admin's: the tool knows it from dom0's kernel.
    pub(crate) express_reset: bool,
    /// The same of Advanced Features.
    pub(crate) features_reset: bool,
    /// Hidden capabilities.
    pub hidden: Hidden,
    /// Registers that may be written besides.
    quirks: [Option<Quirk>; MAX_QUIRKS],
}

/// The word for [`Policy::interrupt_control`].
const INTERRUPT_CONTROL_WORD: &str = "interrupt-control";
/// Quirks of one device.
const MAX_QUIRKS: usize = 8;

/// The first of the numbers of [`PolicyFlags`], bit by bit.
const PASSES_ON: u64 = PERMISSIVE | 1;
const PERMISSIVE: u64 = 2;
const INTERRUPT_CONTROL: u64 = 4;
const EXPRESS_RESET: u64 = 8;
const FEATURES_RESET: u64 = 16;

/// The part of a policy that the driver domain needs.
///
/// It has no room for a parser of words, so it is told three numbers: 1 where a write that it would drop is to be passed on, 2 where the device is permissive besides, 4 more where
/// the guest has interrupt control, 8 and 16 more where it may reset the function by PCI Express and by Advanced Features; a bit for each hidden conventional capability's id, and a bit for each hidden extended one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyFlags([u64; 3]);

impl Default for PolicyFlags {
    /// That of the default policy.
    fn default() -> Self {
        Self([0, 0, USELESS])
    }
}

impl PolicyFlags {
    /// From their numbers in the node.
    #[must_use]
    pub const fn new(numbers: [u64; 3]) -> Self {
        Self(numbers)
    }

    /// Their numbers in the node.
    #[must_use]
    pub const fn numbers(self) -> [u64; 3] {
        self.0
    }

    /// Whether a write that would be dropped is passed on: the broker knows what of it is open.
    pub(crate) const fn passes_on(self) -> bool {
        self.0[0] & PASSES_ON != 0
    }

    /// Whether the device is permissive, which means something for Command.
    pub(crate) const fn is_permissive(self) -> bool {
        self.0[0] & PERMISSIVE != 0
    }

    /// Whether the guest turns MSI and MSI-X on and off by itself.
    pub(crate) const fn controls_interrupts(self) -> bool {
        self.0[0] & INTERRUPT_CONTROL != 0
    }

    /// Whether a guest is shown the function level reset that PCI Express has.
    #[must_use]
    pub const fn shows_express_reset(self) -> bool {
        self.0[0] & EXPRESS_RESET != 0
    }

    /// Whether a guest is shown the one that Advanced Features has.
    #[must_use]
    pub const fn shows_features_reset(self) -> bool {
        self.0[0] & FEATURES_RESET != 0
    }

    /// Whether a guest does not see such a capability.
    pub(crate) const fn hides(self, is_extended: bool, id: u16) -> bool {
        let bits = if is_extended { self.0[2] } else { self.0[1] };
        id < 64 && bits >> id & 1 != 0
    }
}

/// The text is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a policy")]
pub struct BadPolicy;

impl Policy {
    /// True where it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Takes one word of it in; false where there is no such word.
    ///
    /// # Errors
    /// Where there is, and its value makes no sense.
    pub fn take(&mut self, word: &str, value: &str) -> Result<bool, BadPolicy> {
        match word {
            "permissive" => self.permissive = yes_or_no(value)?,
            INTERRUPT_CONTROL_WORD => self.interrupt_control = yes_or_no(value)?,
            "hide" | "show" => {
                let (is_extended, digits) = value.strip_prefix('x').map_or((false, value), |digits| (true, digits));
                let id = hexadecimal(digits).and_then(|id| u16::try_from(id).ok()).ok_or(BadPolicy)?;
                if !self.hidden.set(is_extended, id, word == "hide") {
                    return Err(BadPolicy);
                }
            }
            "quirk" => self.add_quirk(value.parse()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Adds a quirk.
    ///
    /// # Errors
    /// When there are too many, or it overlaps another.
    pub fn add_quirk(&mut self, quirk: Quirk) -> Result<(), BadPolicy> {
        let end = |quirk: &Quirk| quirk.offset + quirk.width as u16;
        let mut overlaps = false;
        for other in self.quirks() {
            if *other == quirk {
                return Ok(());
            }
            overlaps |= other.offset < end(&quirk) && quirk.offset < end(other);
        }
        let free = self.quirks.iter_mut().find(|place| place.is_none()).filter(|_| !overlaps);
        *free.ok_or(BadPolicy)? = Some(quirk);
        Ok(())
    }

    /// The same where dom0 resets the function at its guest's wish, by PCI Express and by Advanced Features.
    #[must_use]
    pub const fn with_resets(self, express_reset: bool, features_reset: bool) -> Self {
        Self { express_reset, features_reset, ..self }
    }

    /// The part of it that the driver domain needs.
    #[must_use]
    pub fn policy_flags(&self) -> PolicyFlags {
        let passes_on = if self.permissive { PERMISSIVE } else { self.quirks().next().is_some().into() };
        let interrupt_control = if self.interrupt_control { INTERRUPT_CONTROL } else { 0 };
        let express_reset = if self.express_reset { EXPRESS_RESET } else { 0 };
        let features_reset = if self.features_reset { FEATURES_RESET } else { 0 };
        let flags = passes_on | interrupt_control | express_reset | features_reset;
        PolicyFlags([flags, self.hidden.conventional.into(), self.hidden.extended])
    }

    /// Registers that may be written besides.
    pub fn quirks(&self) -> impl Iterator<Item = &Quirk> {
        self.quirks.iter().flatten()
    }
}

impl FromStr for Policy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let mut policy = Self::default();
        for word in text.split(',') {
            let (word, value) = word.split_once('=').ok_or(BadPolicy)?;
            if !policy.take(word, value)? {
                return Err(BadPolicy);
            }
        }
        Ok(policy)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permissive={}", u8::from(self.permissive))?;
        if self.interrupt_control {
            write!(f, ",{INTERRUPT_CONTROL_WORD}=1")?;
        }
        for (is_extended, id) in (1..32).map(|id| (false, id)).chain((1..64).map(|id| (true, id))) {
            let is_hidden = self.hidden.contains(is_extended, id);
            if is_hidden != Hidden::default().contains(is_extended, id) {
                let (word, mark) = (if is_hidden { "hide" } else { "show" }, if is_extended { "x" } else { "" });
                write!(f, ",{word}={mark}{id:x}")?;
            }
        }
        self.quirks().try_for_each(|quirk| write!(f, ",quirk={quirk}"))
    }
}

/// A word that says yes or no.
fn yes_or_no(value: &str) -> Result<bool, BadPolicy> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(BadPolicy),
    }
}

/// A hexadecimal number without sign, with or without `0x`.
fn hexadecimal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 16).ok() }
}
