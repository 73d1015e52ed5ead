package merkle

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/calpe/calpe"
)

// The shape of tiles, https://c2sp.org/tlog-tiles: one tile holds the hashes of
// one level in TileHeight levels of the tree, TileWidth of them when full.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
)

// tileLevels is how many levels of tiles the largest log has, as
// calpe.MaxLogSize is below 2^(tileLevels*TileHeight).
const tileLevels = 5

// Tile names a run of consecutive hashes: those with indices from
// Index*TileWidth at tile level Level, where hash i is the root of the complete
// subtree over entries i*256^Level up to, and not including, (i+1)*256^Level. At
// level 0 these are leaf hashes.
type Tile struct {
	Level uint8
	Index uint64 // position among the tiles of the level
	Width int    // number of hashes, 1 to TileWidth; less than TileWidth is a partial tile
}

// ByteLen is the length in bytes of the tile: 32 for each hash.
func (t Tile) ByteLen() int { return t.Width * calpe.HashSize }

// Path is the tile's name below the log's prefix, as tlog-tiles writes it:
// "tile/0/x001/234", and "tile/0/x001/234.p/5" for a partial tile.
func (t Tile) Path() string {
	return "tile/" + strconv.Itoa(int(t.Level)) + "/" + indexPath(t.Index, t.Width)
}

// String is [Tile.Path].
func (t Tile) String() string { return t.Path() }

// check refuses a tile that no log within [calpe.MaxLogSize] has.
func (t Tile) check() error {
	if t.Width < 1 || t.Width > TileWidth {
		return fmt.Errorf("width %d is not in 1 to %d", t.Width, TileWidth)
	}
	if t.Level >= tileLevels {
		return fmt.Errorf("level %d is above %d", t.Level, tileLevels-1)
	}
	hashes := uint64(calpe.MaxLogSize) >> (TileHeight * t.Level) // at this level, in the largest log
	if t.Index > hashes/TileWidth || t.Index*TileWidth+uint64(t.Width) > hashes {
		return fmt.Errorf("index %d is beyond the largest log", t.Index)
	}
	return nil
}

// ParseTilePath is the inverse of [Tile.Path]. It accepts the one spelling that
// Path writes, and only tiles that a log of up to [calpe.MaxLogSize] entries
// can have.
func ParseTilePath(path string) (Tile, error) {
	t, err := parseTilePath(path)
	if err == nil {
		err = t.check()
	}
	if err == nil && t.Path() != path {
		err = fmt.Errorf("not the one spelling of %q", t.Path())
	}
	if err != nil {
		return Tile{}, fmt.Errorf("parse tile path %s: %w", quote(path), err)
	}
	return t, nil
}

// parseTilePath reads the parts and leaves it to its caller to check them.
func parseTilePath(path string) (t Tile, err error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return t, errors.New(`does not start with "tile/"`)
	}
	level, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return t, errors.New("has no index")
	}
	l, err := strconv.ParseUint(level, 10, 6) // tlog-tiles: 0 to 63
	if err != nil {
		return t, errors.New("level is not a number from 0 to 63")
	}
	t.Level = uint8(l)
	t.Index, t.Width, err = parseIndexPath(rest)
	return t, err
}

// Bundle names a run of consecutive entries: those with indices from
// Index*TileWidth. Each bundle goes with the tile of the same index and width
// at level 0.
type Bundle struct {
	Index uint64
	Width int // number of entries, 1 to TileWidth
}

// First is the index of the first entry in the bundle.
func (b Bundle) First() uint64 { return b.Index * TileWidth }

// tile that holds the leaf hashes of the bundle's entries.
func (b Bundle) tile() Tile { return Tile{Index: b.Index, Width: b.Width} }

// EntryBundlePath is the name of an entry bundle below the log's prefix:
// "tile/entries/x001/234", and "tile/entries/x001/234.p/5" for a partial one.
func EntryBundlePath(index uint64, width int) string {
	return bundlePrefix + indexPath(index, width)
}

const bundlePrefix = "tile/entries/"

// ParseEntryBundlePath is the inverse of [EntryBundlePath], and as strict as
// [ParseTilePath].
func ParseEntryBundlePath(path string) (Bundle, error) {
	b, err := parseBundlePath(path)
	if err == nil {
		err = b.tile().check()
	}
	if want := EntryBundlePath(b.Index, b.Width); err == nil && want != path {
		err = fmt.Errorf("not the one spelling of %q", want)
	}
	if err != nil {
		return Bundle{}, fmt.Errorf("parse entry bundle path %s: %w", quote(path), err)
	}
	return b, nil
}

func parseBundlePath(path string) (b Bundle, err error) {
	rest, ok := strings.CutPrefix(path, bundlePrefix)
	if !ok {
		return b, errors.New(`does not start with "` + bundlePrefix + `"`)
	}
	b.Index, b.Width, err = parseIndexPath(rest)
	return b, err
}

// indexPath writes the index in groups of three digits, all but the last with
// an x in front, and the width unless it is full.
func indexPath(index uint64, width int) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index /= 1000; index > 0; index /= 1000 {
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	if width != TileWidth {
		path += ".p/" + strconv.Itoa(width)
	}
	return path
}

// parseIndexPath reads what [indexPath] writes, and a few other spellings,
// which the callers refuse by writing the path again.
func parseIndexPath(path string) (index uint64, width int, err error) {
	width = TileWidth
	groups, partial, isPartial := strings.Cut(path, ".p/")
	if isPartial {
		w, err := strconv.ParseUint(partial, 10, TileHeight)
		if err != nil {
			return 0, 0, fmt.Errorf("width is not a number from 1 to %d", TileWidth-1)
		}
		width = int(w)
	}
	for more := true; more; {
		var group string
		group, groups, more = strings.Cut(groups, "/")
		if more && !strings.HasPrefix(group, "x") {
			return 0, 0, errors.New("an index group before the last has no x")
		}
		if more {
			group = group[1:]
		}
		n, err := strconv.ParseUint(group, 10, 10)
		if err != nil || len(group) != 3 {
			return 0, 0, errors.New("an index group is not three digits")
		}
		if index = index*1000 + n; index > calpe.MaxLogSize {
			return 0, 0, errors.New("index is beyond the largest log")
		}
	}
	return index, width, nil
}

// quote bounds what of a refused text an error repeats.
func quote(text string) string {
	const most = 64 // the longest valid path has 37
	if len(text) > most {
		return fmt.Sprintf("%q... of %d bytes", text[:most], len(text))
	}
	return strconv.Quote(text)
}

// NewTiles yields the tiles that have to be written when the log grows from
// oldSize to newSize, by level, then by index: full ones, and at the right edge
// partial ones. A partial tile that stays as it was isn't among them. All tiles
// of a log are NewTiles(0, size). A log that doesn't grow has no new tiles.
func NewTiles(oldSize, newSize uint64) iter.Seq[Tile] {
	return func(yield func(Tile) bool) {
		for level := uint8(0); oldSize < newSize; level++ {
			for i := oldSize / TileWidth; i <= (newSize-1)/TileWidth; i++ {
				if !yield(Tile{level, i, int(min(newSize-i*TileWidth, TileWidth))}) {
					return
				}
			}
			oldSize, newSize = oldSize/TileWidth, newSize/TileWidth
		}
	}
}

// BundlesFor yields the entry bundles that have to be written when the log
// grows from oldSize to newSize, by index: the same as [NewTiles] at level 0.
func BundlesFor(oldSize, newSize uint64) iter.Seq[Bundle] {
	return func(yield func(Bundle) bool) {
		for t := range NewTiles(oldSize, newSize) {
			if t.Level > 0 || !yield(Bundle{t.Index, t.Width}) {
				return
			}
		}
	}
}
