//! Random schedules: bytes arrive in any pieces, guests and dom0 act at any moment.

use sim::random::Random;
use sim::stub::Turn;
use sim::world::World;
use xen_types::{DomId, Sbdf};

const DEVICES: [Sbdf; 3] = [Sbdf::from_devfn(0, 3, 0), Sbdf::from_devfn(0, 3, 1), Sbdf::from_devfn(0, 5, 0x10)];
const GUESTS: [u16; 2] = [5, 6];

/// One life of two guests that fight over three devices.
struct Life {
    world: World,
    random: Random,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self { world: World::new(&DEVICES), random: Random::new(seed) }
    }

    fn some_devices(&mut self) -> Vec<Sbdf> {
        let wanted = self.random.below(8);
        DEVICES.iter().enumerate().filter(|(index, _)| wanted >> index & 1 == 1).map(|(_, device)| *device).collect()
    }

    /// One thing that one of those involved does.
    fn act(&mut self) {
        let domid = GUESTS[self.random.below(GUESTS.len())];
        let guest = DomId(domid);
        let exists = self.world.guests.contains_key(&guest);
        let has_dir = self.world.tool.backend(guest, "frontend").is_some();
        let count = self.random.below(2_000);
        match self.random.below(40) {
            0..6 => drop(self.world.stub.turn(Turn::Run)),
            6..11 => drop(self.world.stub.turn(Turn::Send(count))),
            11..16 => drop(self.world.stub.turn(Turn::Receive(count))),
            16..20 => {
                for _ in 0..self.random.below(6) {
                    for turn in [Turn::Run, Turn::Send(2_000), Turn::Receive(count)] {
                        self.world.stub.turn(turn);
                    }
                }
            }
            20..23 => drop(self.world.stub.turn(Turn::Serve)),
            23..29 => {
                let World { stub, guests, .. } = &mut self.world;
                if let Some(guest) = guests.get_mut(&guest) {
                    guest.step(stub);
                }
            }
            29 => self.world.xen.advance_ns(100_000_000),
            30 | 31 if !exists => {
                self.world.create_guest(domid);
                self.world.guest(guest).scans_everything = false;
            }
            30 => self.world.destroy(guest),
            31 | 32 if exists && !has_dir => {
                let devices = self.some_devices();
                self.world.guest(guest).forget();
                self.world.tool.attach(guest, &devices);
            }
            33 if has_dir => self.world.tool.remove_dirs(guest),
            34 if has_dir => self.world.tool.request_close(guest),
            35 if exists => {
                self.world.guest(guest).forget();
                self.world.guest(guest).set_state(1);
            }
            36 if exists => self.world.guest(guest).set_state(u32::try_from(self.random.below(10)).unwrap_or(0)),
            37 if exists => self.world.guest(guest).unload(),
            38 => {
                let device = DEVICES[self.random.below(DEVICES.len())];
                let is_online = self.random.below(3) > 0;
                self.world.tool.set_online(device, is_online);
            }
            _ => {}
        }
    }

    /// Nobody has what somebody else has.
    fn assert_exclusive(&self) {
        let held = self.world.xen.held_by(self.world.stub.domid());
        assert!(held.pages <= GUESTS.len() && held.ports == held.pages, "{held:?}");
        assert!(held.ecam_pages <= DEVICES.len(), "{held:?}");
        // And the port that is offered to the broker.
        assert_eq!(self.world.stub.backend.ports().count(), held.ports + 1);
    }

    /// Whatever has happened: what is taken away is gone, and a guest that is attached properly then gets its devices.
    fn end(mut self, tries_a_guest: bool) {
        for domid in GUESTS.map(DomId) {
            self.world.destroy(domid);
            if self.world.tool.backend(domid, "frontend").is_some() {
                self.world.tool.remove_dirs(domid);
            }
        }
        for device in DEVICES {
            self.world.tool.set_online(device, true);
        }
        self.world.settle_deadlines(1_000);
        self.world.assert_clean();
        assert!(self.world.pool_states().values().all(|state| state == "free"), "{:?}", self.world.pool_states());
        if !tries_a_guest {
            return;
        }
        let guest = self.world.create_guest(7);
        self.world.guest(guest).scans_everything = false;
        self.world.tool.attach(guest, &DEVICES);
        self.world.settle();
        assert_eq!(self.world.states(guest), ("4".to_string(), 4));
        assert_eq!(self.world.guest(guest).found.len(), DEVICES.len());
    }
}

/// Steps in a life.
const STEPS: usize = 200;
/// Lives in each of the two tests below; `LIVES=` in the environment asks for more.
const LIVES: u64 = 500;

fn lives() -> u64 {
    std::env::var("LIVES").ok().and_then(|lives| lives.parse().ok()).unwrap_or(LIVES)
}

fn live(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        // The seed that fails is in the captured output, on the last line.
        println!("seed {seed}");
        let mut life = Life::new(seed);
        for _ in 0..STEPS {
            life.act();
            life.assert_exclusive();
        }
        life.end(seed.is_multiple_of(8)); // the guest takes as long as all the rest
    }
}

// Two tests, for two processors.

#[test]
fn any_order_of_events_leaves_nothing_behind() {
    live(0..lives());
}

#[test]
fn any_other_order_of_events_leaves_nothing_behind() {
    live(lives()..2 * lives());
}
