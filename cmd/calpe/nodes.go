package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sort"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// nodesFlags are how to reach several Bitcoin nodes.
type nodesFlags struct {
	Node []string `help:"JSON-RPC address of a Bitcoin node (btcd or Bitcoin Core; pruned is enough), http://host:port or http://user:password@host:port. Give more than one to compare them." variable:"CALPE_NODE" placeholder:"URL" group:"Bitcoin node"`
	nodeAccess
}

// maxFork is how many blocks at their tips two nodes may see differently: miners
// find two blocks at once now and then. Deeper, one of them is cut off from the
// network, or lies.
const maxFork = 3

// peer is one of several nodes.
type peer struct {
	node
	name string // without user and password
}

// openAll makes a client of each node, and asks each for its network.
func (n nodesFlags) openAll(ctx context.Context, network calpe.Network) (peers []peer, closeAll func(), err error) {
	var opened []func()
	closeAll = func() {
		for _, f := range opened {
			f()
		}
	}
	for _, address := range n.Node {
		client, err := nodeFlags{Node: address, nodeAccess: n.nodeAccess}.open()
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		opened = append(opened, client.Close)
		p := peer{client, nodeName(address)}
		if slices.ContainsFunc(peers, func(other peer) bool { return other.name == p.name }) {
			closeAll()
			return nil, nil, fmt.Errorf("node %s is given twice: it can't be compared with itself", p.name)
		}
		if err := client.CheckNetwork(ctx, network); err != nil {
			closeAll()
			return nil, nil, p.wrap(err)
		}
		peers = append(peers, p)
	}
	return peers, closeAll, nil
}

// nodeName is the part of an address that may be shown.
func nodeName(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "with an address that can't be read"
	}
	return u.Host
}

// follow brings the chain to the tip with the most work that any node has. Every
// header of every node is verified, as far as it isn't in the chain already. The
// nodes must agree but for the last blocks, also before anything is saved. Beside
// an error, the chain is the last one that may be kept.
func follow(ctx context.Context, peers []peer, c *headers.Chain, s syncer) (*headers.Chain, error) {
	if len(peers) == 1 {
		s.node = peers[0]
		next, err := s.run(ctx, c)
		return next, peers[0].wrap(err)
	}
	agreed, save, stopped := c, s.save, error(nil)
	s.save = func(next *headers.Chain) error {
		if stopped = compareAll(ctx, peers, next); stopped == nil {
			agreed, stopped = next, save(next)
		}
		return stopped
	}
	for i, p := range peers {
		if i > 0 { // the first differs from the file at most, whose tail a reorganisation replaces
			if err := p.compare(ctx, c); err != nil {
				return agreed, err
			}
		}
		s.node = p
		next, err := s.run(ctx, c)
		switch {
		case stopped != nil:
			return agreed, stopped
		case err != nil && !errors.Is(err, headers.ErrLessWork):
			return agreed, p.wrap(err)
		}
		c = next
	}
	if err := compareAll(ctx, peers, c); err != nil {
		return agreed, err
	}
	return c, nil
}

func (p peer) wrap(err error) error {
	if err != nil {
		err = fmt.Errorf("node %s: %w", p.name, err)
	}
	return err
}

// compareAll compares every node with the chain.
func compareAll(ctx context.Context, peers []peer, c *headers.Chain) error {
	for _, p := range peers {
		if err := p.compare(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// compare finds the last block that the node and the chain have in common. A
// node that is behind contradicts nothing.
func (p peer) compare(ctx context.Context, c *headers.Chain) error {
	height, err := p.Height(ctx)
	if err != nil {
		return p.wrap(err)
	}
	tip, _ := c.Tip()
	last := min(tip, int(height))
	first, err := p.firstOther(ctx, c, last)
	if err != nil {
		return p.wrap(err)
	}
	if last-first < maxFork {
		return nil
	}
	own, _ := c.At(first)
	hash, err := p.BlockHash(ctx, uint32(first))
	if err != nil {
		return p.wrap(err)
	}
	return fmt.Errorf("the nodes disagree: block %d is %s for %s, and %s for the others, and at least %d more follow on either side. "+
		"One of them is cut off from the network, or lies: find out which, and leave it out",
		first, hash, p.name, own.Hash, last-first)
}

// firstOther is the lowest height up to last at which the node has another block
// than the chain, or last+1.
func (p peer) firstOther(ctx context.Context, c *headers.Chain, last int) (int, error) {
	var failed error
	first := sort.Search(last+1, func(height int) bool {
		if failed != nil {
			return true
		}
		hash, err := p.BlockHash(ctx, uint32(height))
		failed = err
		own, _ := c.At(height)
		return calpe.BlockHash(own.Hash) != hash
	})
	return first, failed
}
