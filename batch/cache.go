package batch

import (
	"container/list"
	"sync"

	"github.com/calpe/calpe/merkle"
)

// tileCache keeps the full tiles that were used last. A full tile never
// changes, so nothing in it gets old.
type tileCache struct {
	limit int

	mu    sync.Mutex
	order *list.List // of cachedTile, the one used last in front
	tiles map[merkle.Tile]*list.Element
}

type cachedTile struct {
	tile merkle.Tile
	data []byte
}

func newTileCache(limit int) *tileCache {
	return &tileCache{limit: limit, order: list.New(), tiles: make(map[merkle.Tile]*list.Element)}
}

func (c *tileCache) get(t merkle.Tile) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.tiles[t]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cachedTile).data, true
}

func (c *tileCache) put(t merkle.Tile, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.tiles[t]; ok {
		c.order.MoveToFront(e)
		return
	}
	c.tiles[t] = c.order.PushFront(cachedTile{t, data})
	if c.order.Len() > c.limit {
		last := c.order.Remove(c.order.Back()).(cachedTile)
		delete(c.tiles, last.tile)
	}
}

func (c *tileCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.Init()
	clear(c.tiles)
}
