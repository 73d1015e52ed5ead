package batch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// Objects is the object storage of the published log.
type Objects interface {
	// PutLogObject stores an object that isn't there yet, durably. The same
	// bytes again are fine; other bytes are [calpe.ErrExists], nothing written.
	PutLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error
	// ReplaceLogObject stores an object whatever was there, durably. After an
	// error it may still be applied, late.
	ReplaceLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error
	ObjectReader
}

// ObjectReader is the part of [Objects] that reads.
type ObjectReader interface {
	// ReadLogObject reads a whole object of at most maxBytes, else fails.
	// [calpe.ErrNotFound]: there is none.
	ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error)
	// ListLog yields the paths under prefix that sort after startAfter ("": all),
	// in lexicographic order, until yield returns false.
	ListLog(ctx context.Context, prefix, startAfter string, yield func(path string) bool) error
}

// How the objects are served. Nothing of the log but its head ever changes.
const (
	typeTile       = "application/octet-stream"
	typeCheckpoint = "text/plain; charset=utf-8"
	cacheForEver   = "public, max-age=31536000, immutable"
	cacheHead      = "public, max-age=5"
)

// maxCheckpointBytes bounds a stored checkpoint note: three lines, our
// signature and those of a generous number of witnesses.
const maxCheckpointBytes = 32 << 10

// HowServed says with which content type and cache control an object of the log
// is stored under that path.
func HowServed(path string) (contentType, cacheControl string) {
	switch {
	case path == HeadPath:
		return typeCheckpoint, cacheHead
	case strings.HasPrefix(path, checkpointPrefix):
		return typeCheckpoint, cacheForEver
	case strings.HasPrefix(path, "anchors/"):
		return receipt.AnchorsMediaType, cacheHead
	}
	return typeTile, cacheForEver
}

const checkpointPrefix = "checkpoints/"

// CheckpointPath is the name of the immutable copy of the checkpoint of that
// size: "checkpoints/x000/x000/x001/x234/567". All names are equally long, so
// that they sort as the sizes do and the newest copy is found by a listing that
// starts at the newest row.
func CheckpointPath(size uint64) string {
	const groups = 5 // 10^15 > calpe.MaxLogSize
	path := fmt.Sprintf("%03d", size%1000)
	for range groups - 1 {
		size /= 1000
		path = fmt.Sprintf("x%03d/%s", size%1000, path)
	}
	return checkpointPrefix + path
}

var errCheckpointPath = errors.New("not the path of a checkpoint")

// ParseCheckpointPath is the inverse of [CheckpointPath] and accepts nothing else.
func ParseCheckpointPath(path string) (uint64, error) {
	digits := strings.TrimPrefix(path, checkpointPrefix)
	digits = strings.NewReplacer("x", "", "/", "").Replace(digits)
	size, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || size > calpe.MaxLogSize || CheckpointPath(size) != path {
		return 0, fmt.Errorf("%w: %.80q", errCheckpointPath, path)
	}
	return size, nil
}

// leaf is the leaf hash of an entry.
func leaf(index uint64, c calpe.Commitment) calpe.Hash {
	b := calpe.Entry{Index: index, Commitment: c}.Bytes()
	return merkle.LeafHash(b[:])
}

// leaves are the leaf hashes of entries in a row.
func leaves(first uint64, commitments []calpe.Commitment) []calpe.Hash {
	hashes := make([]calpe.Hash, len(commitments))
	for i, c := range commitments {
		hashes[i] = leaf(first+uint64(i), c)
	}
	return hashes
}
