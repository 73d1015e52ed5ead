package stamp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// Node is a Bitcoin node as a source of headers. *bitcoin.Client is one: what it
// returns is checked as far as that package says.
type Node interface {
	CheckNetwork(ctx context.Context, network calpe.Network) error
	BestBlock(ctx context.Context) (height uint32, hash calpe.BlockHash, err error)
	BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error)
	Header(ctx context.Context, hash calpe.BlockHash) ([calpe.HeaderSize]byte, error)
}

// NodeHeaders asks a node. It is safe for concurrent use if the node is.
type NodeHeaders struct {
	Node    Node
	Network calpe.Network
}

var _ Headers = NodeHeaders{}

// Tip implements [Headers]. The node's network is checked every time: the node
// behind an address can become another one.
func (h NodeHeaders) Tip(ctx context.Context) (uint32, calpe.BlockHash, error) {
	if err := h.Node.CheckNetwork(ctx, h.Network); err != nil {
		return 0, calpe.BlockHash{}, err
	}
	return h.Node.BestBlock(ctx)
}

// At implements [Headers].
func (h NodeHeaders) At(ctx context.Context, height uint32) ([calpe.HeaderSize]byte, error) {
	hash, err := h.Node.BlockHash(ctx, height)
	if err != nil {
		return [calpe.HeaderSize]byte{}, err
	}
	return h.Node.Header(ctx, hash)
}

// maxHeadersFile is far more than Bitcoin will have in a hundred years.
const maxHeadersFile = 1 << 30

// maxExtension is how many bytes of new headers are added to a chain that is
// known: those of three months. With more, or others, the file is read anew.
const maxExtension = 1 << 20

// FileHeaders reads a file of headers, as "calpe headers" writes it, verifies all
// of it by the rules of the network, and looks for what is new when it has changed.
// It is safe for concurrent use.
type FileHeaders struct {
	path    string
	params  headers.Params
	reading chan struct{} // the place of the one who reads the file

	mu    sync.Mutex // it is never held while the file is read
	known knownFile
}

// knownFile is a file that was read.
type knownFile struct {
	chain *headers.Chain // nil: none was
	size  int64
	at    time.Time // when it was last changed, as it was read
}

func (k knownFile) is(info os.FileInfo) bool {
	return k.chain != nil && info.Size() == k.size && info.ModTime().Equal(k.at)
}

var _ Headers = (*FileHeaders)(nil)

// NewFileHeaders names the file. It is read when a header is first asked for.
func NewFileHeaders(path string, network calpe.Network) (*FileHeaders, error) {
	params, err := headers.ParamsFor(network)
	if err != nil {
		return nil, err
	}
	return &FileHeaders{path: path, params: params, reading: make(chan struct{}, 1)}, nil
}

// Tip implements [Headers].
func (h *FileHeaders) Tip(ctx context.Context) (uint32, calpe.BlockHash, error) {
	chain, err := h.load(ctx)
	if err != nil {
		return 0, calpe.BlockHash{}, err
	}
	height, hash := chain.Tip()
	return uint32(height), calpe.BlockHash(hash), nil
}

// At implements [Headers].
func (h *FileHeaders) At(ctx context.Context, height uint32) ([calpe.HeaderSize]byte, error) {
	chain, err := h.load(ctx)
	if err != nil {
		return [calpe.HeaderSize]byte{}, err
	}
	header, ok := chain.At(int(height))
	if !ok {
		return [calpe.HeaderSize]byte{}, fmt.Errorf("%s ends before block %d", h.path, height)
	}
	return header.Raw, nil
}

func (h *FileHeaders) last() knownFile {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known
}

// load gives the chain of the file as it is now. One caller at a time reads it;
// the others wait for that, as long as their contexts let them.
func (h *FileHeaders) load(ctx context.Context) (*headers.Chain, error) {
	info, err := os.Stat(h.path)
	if err != nil {
		return nil, err
	}
	if known := h.last(); known.is(info) {
		return known.chain, nil
	}
	select {
	case h.reading <- struct{}{}:
		defer func() { <-h.reading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s to be read: %w", h.path, context.Cause(ctx))
	}
	f, err := os.Open(h.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	known := h.last()
	if known.is(info) { // another one has read it meanwhile
		return known.chain, nil
	}
	if info.Size() > maxHeadersFile {
		return nil, fmt.Errorf("%s has %d bytes, which are no file of headers", h.path, info.Size())
	}
	if known.chain, err = h.read(ctx, f, known.chain); err != nil {
		return nil, fmt.Errorf("%s: %w", h.path, err)
	}
	known.size, known.at = info.Size(), info.ModTime()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = known
	return known.chain, nil
}

// read verifies a file: what is new in it, if it begins as the chain that is known,
// and else, or if that fails, all.
func (h *FileHeaders) read(ctx context.Context, f *os.File, known *headers.Chain) (*headers.Chain, error) {
	if known != nil {
		if chain, err := extend(known, patient{ctx, f}); err == nil || ctx.Err() != nil {
			return chain, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return headers.Read(patient{ctx, f}, h.params)
}

// extend adds to a chain what a file has behind it, or instead of its end. The new
// chain shares the memory of the old one.
func extend(known *headers.Chain, file io.Reader) (*headers.Chain, error) {
	in := bufio.NewReaderSize(file, 1<<16)
	var raw [calpe.HeaderSize]byte
	for height := 0; ; height++ {
		header, ok := known.At(height)
		switch _, err := io.ReadFull(in, raw[:]); {
		case err == io.EOF && !ok: // the end of both
			return known, nil
		case err != nil:
			return nil, err
		}
		if !ok || header.Raw != raw {
			break
		}
	}
	rest, err := io.ReadAll(io.LimitReader(in, maxExtension+1))
	if err != nil {
		return nil, err
	}
	if len(rest) > maxExtension {
		return nil, fmt.Errorf("more than %d bytes are new", maxExtension)
	}
	return known.Extend(append(raw[:], rest...))
}

// patient reads while its context lets it: a file takes a while to verify.
type patient struct {
	ctx context.Context //nolint:containedctx // io.Reader takes none
	in  io.Reader
}

func (p patient) Read(data []byte) (int, error) {
	if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	return p.in.Read(data)
}
