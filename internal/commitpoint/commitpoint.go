// Package commitpoint names the places at which Calpe's state changes hands:
// where something has just become durable, or is just about to. Each has a
// comment in the code that says what a crash there means, and the kill test
// crashes the server at each of them.
//
// In an ordinary build Reached does nothing. A build with the tag
// calpe_crashpoints kills its own process with SIGKILL at the point that the
// variable CALPE_CRASH_AT names ("name", or "name:3" for the third time it is
// reached), so that the test hits exactly that instruction.
package commitpoint

// Point is the name of a commit point.
type Point string

// The commit points, in the order in which a document meets them.
const (
	// Store: the object's parts are being written, or are all there, and no row names them.
	ObjectPartStored Point = "store.part-stored"
	ObjectStored     Point = "store.object-stored"

	// Pieces: a document that comes in pieces has come further, or is in the log and
	// its row doesn't say so.
	PartialAdvanced Point = "store.partial-advanced"
	PartialRecorded Point = "record.partial-recorded"

	// Record: around the group commit and the fence.
	FenceRaised     Point = "record.fence-raised"
	GroupInserted   Point = "record.group-inserted"
	GroupCommitted  Point = "record.group-committed"
	GroupAnswered   Point = "record.group-answered"
	ObjectRetained  Point = "record.object-retained"
	RetainRecorded  Point = "record.retain-recorded"
	RecoveryFilled  Point = "recover.void-filled"
	RecoveryRolled  Point = "recover.rolled-forward"
	RecoveryFenced  Point = "recover.fence-raised"
	RecoveryClaimed Point = "recover.statement-recorded"

	// Batch: from tiles to the checkpoint row.
	TileStored       Point = "batch.tile-stored"
	TilesStored      Point = "batch.tiles-stored"
	CheckpointStored Point = "batch.checkpoint-stored"
	CheckpointRow    Point = "batch.checkpoint-row"

	// Anchor: from the stored attempt to the final anchor.
	AttemptStored  Point = "anchor.attempt-stored"
	AttemptSigned  Point = "anchor.attempt-signed"
	AttemptSent    Point = "anchor.attempt-sent"
	AnswerRecorded Point = "anchor.answer-recorded"
	AnchorMined    Point = "anchor.mined-recorded"
	AnchorFinal    Point = "anchor.final-recorded"
	AnchorRewound  Point = "anchor.rewound"

	// Stamp: from the wanted proof of a calendar to the final one.
	ProofWanted    Point = "stamp.proof-wanted"
	ProofSubmitted Point = "stamp.submitted"
	ProofPromised  Point = "stamp.promise-stored"
	ProofAnswered  Point = "stamp.answered"
	ProofConfirmed Point = "stamp.confirmed-recorded"
	ProofFinal     Point = "stamp.final-recorded"

	// Restart: an operator's command, after somebody else has spent the coin.
	BreakDeclared  Point = "restart.statement-recorded"
	BreakPublished Point = "restart.break-published"
	ChainRestarted Point = "restart.coin-recorded"
)

// All lists every point, for the test that crashes at each.
func All() []Point {
	return []Point{
		ObjectPartStored, ObjectStored, PartialAdvanced, PartialRecorded,
		FenceRaised, GroupInserted, GroupCommitted, GroupAnswered, ObjectRetained, RetainRecorded,
		RecoveryFilled, RecoveryRolled, RecoveryFenced, RecoveryClaimed,
		TileStored, TilesStored, CheckpointStored, CheckpointRow,
		AttemptStored, AttemptSigned, AttemptSent, AnswerRecorded, AnchorMined, AnchorFinal, AnchorRewound,
		ProofWanted, ProofSubmitted, ProofPromised, ProofAnswered, ProofConfirmed, ProofFinal,
		BreakDeclared, BreakPublished, ChainRestarted,
	}
}
