package stamp

import (
	"context"
	"fmt"
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

// FileHeaders reads a file of headers, as "calpe headers" writes it, verifies all
// of it by the rules of the network, and reads it again when it has changed. It
// is safe for concurrent use.
type FileHeaders struct {
	path   string
	params headers.Params

	mu    sync.Mutex
	chain *headers.Chain
	size  int64
	at    time.Time // when the file was last changed, as it was read
}

var _ Headers = (*FileHeaders)(nil)

// NewFileHeaders names the file. It is read when a header is first asked for.
func NewFileHeaders(path string, network calpe.Network) (*FileHeaders, error) {
	params, err := headers.ParamsFor(network)
	if err != nil {
		return nil, err
	}
	return &FileHeaders{path: path, params: params}, nil
}

// Tip implements [Headers].
func (h *FileHeaders) Tip(context.Context) (uint32, calpe.BlockHash, error) {
	chain, err := h.load()
	if err != nil {
		return 0, calpe.BlockHash{}, err
	}
	height, hash := chain.Tip()
	return uint32(height), calpe.BlockHash(hash), nil
}

// At implements [Headers].
func (h *FileHeaders) At(_ context.Context, height uint32) ([calpe.HeaderSize]byte, error) {
	chain, err := h.load()
	if err != nil {
		return [calpe.HeaderSize]byte{}, err
	}
	header, ok := chain.At(int(height))
	if !ok {
		return [calpe.HeaderSize]byte{}, fmt.Errorf("%s ends before block %d", h.path, height)
	}
	return header.Raw, nil
}

// load gives the chain of the file as it is now.
func (h *FileHeaders) load() (*headers.Chain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, err := os.Open(h.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if h.chain != nil && info.Size() == h.size && info.ModTime().Equal(h.at) {
		return h.chain, nil
	}
	if info.Size() > maxHeadersFile {
		return nil, fmt.Errorf("%s has %d bytes, which are no file of headers", h.path, info.Size())
	}
	chain, err := headers.Read(f, h.params)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.path, err)
	}
	h.chain, h.size, h.at = chain, info.Size(), info.ModTime()
	return chain, nil
}
