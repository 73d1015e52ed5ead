package receipt

import (
	"fmt"

	"github.com/calpe/calpe"
	"golang.org/x/mod/sumdb/note"
)

// SignCheckpoint writes the signed note that states the root of the first size
// entries (docs/formats.md, "Checkpoint"). The signer is a checkpoint key, named
// origin. Signing two roots for one size proves that the operator lied: whoever
// calls this makes sure of I3.
func SignCheckpoint(signer note.Signer, origin string, size uint64, root calpe.Hash) ([]byte, error) {
	if err := CheckOrigin(origin); err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	if signer.Name() != origin {
		return nil, fmt.Errorf("sign checkpoint: key is named %q, want %q", signer.Name(), origin)
	}
	if size > calpe.MaxLogSize {
		return nil, fmt.Errorf("sign checkpoint: size %d is above %d", size, uint64(calpe.MaxLogSize))
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, encodeRoot(root))
	msg, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return msg, nil
}

// OpenCheckpoint reads a checkpoint and verifies that a checkpoint key of the
// identity signed it and that it has the identity's origin. An error with
// [ErrSignature] in its chain says that it is somebody else's. Time is not in a
// checkpoint and stays zero. The note is kept as it is, with signatures of
// witnesses; msg must not change afterwards.
func OpenCheckpoint(msg []byte, id Identity) (calpe.Checkpoint, error) {
	keys, err := id.CheckpointVerifiers()
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("open checkpoint: %w", err)
	}
	text, err := openNote(msg, keys)
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("open checkpoint: %w", err)
	}
	origin, c, err := parseCheckpoint(text)
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("open checkpoint: %w", err)
	}
	if origin != id.Origin {
		return calpe.Checkpoint{}, fmt.Errorf("open checkpoint: origin is %q, want %q", origin, id.Origin)
	}
	c.Note = msg
	return c, nil
}

// ReadCheckpoint is [OpenCheckpoint] without a key: what the note says, though
// nobody knows who said it.
func ReadCheckpoint(msg []byte) (origin string, c calpe.Checkpoint, err error) {
	text, err := readNote(msg)
	if err != nil {
		return "", calpe.Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	if origin, c, err = parseCheckpoint(text); err != nil {
		return "", calpe.Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	c.Note = msg
	return origin, c, nil
}

func parseCheckpoint(text string) (origin string, c calpe.Checkpoint, err error) {
	lines, err := noteLines(text, 3)
	if err != nil {
		return "", calpe.Checkpoint{}, err
	}
	if err := CheckOrigin(lines[0]); err != nil {
		return "", calpe.Checkpoint{}, err
	}
	if c.Size, err = parseDecimal("size", lines[1], calpe.MaxLogSize); err != nil {
		return "", calpe.Checkpoint{}, err
	}
	if c.Root, err = parseRoot("root", lines[2]); err != nil {
		return "", calpe.Checkpoint{}, err
	}
	return lines[0], c, nil
}
