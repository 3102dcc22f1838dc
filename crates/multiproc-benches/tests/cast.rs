//! Participants that fail don't leave the conductor waiting.

use multiproc_benches::Outcome;
use multiproc_benches::board::{Board, Seat};
use multiproc_benches::cast::{self, Part};
use serde::{Deserialize, Serialize};

/// What a participant does in the second phase.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Turn {
    Well,
    Fail,
    Panic,
}

impl Part for Turn {
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()> {
        let mut phases = 0;
        while let Some(amount) = seat.next_phase() {
            phases += 1;
            match self {
                Turn::Fail if phases == 2 => return Err("no more tea".into()),
                Turn::Panic if phases == 2 => panic!("as it should"),
                _ => seat.counted(phases * amount),
            }
        }
        Ok(())
    }
}

fn conduct(board: &Board) -> Outcome<u64> {
    board.gather(3)?;
    for amount in [5, 7] {
        board.begin(amount);
        board.gather(3)?;
    }
    Ok((0..3).map(|seat| board.count(seat)).sum())
}

fn outcomes_of(parts: [Turn; 3]) -> [String; 2] {
    multiproc::process::set_standby(false);
    let text = |outcome: Outcome<u64>| outcome.map_or_else(|error| error.to_string(), |sum| sum.to_string());
    [text(cast::started(parts.to_vec(), conduct)), text(cast::threads(parts.to_vec(), conduct))]
}

#[multiproc::test]
fn smoke() {
    assert_eq!(outcomes_of([Turn::Well; 3]), ["42", "42"]);
}

#[multiproc::test]
fn failure() {
    assert_eq!(outcomes_of([Turn::Well, Turn::Fail, Turn::Well]), ["no more tea"; 2]);
}

#[multiproc::test]
fn panic() {
    assert_eq!(outcomes_of([Turn::Panic, Turn::Well, Turn::Well]), ["a participant panicked"; 2]);
}
