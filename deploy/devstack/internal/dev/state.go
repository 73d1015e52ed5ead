package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

// state is what is kept in a state folder about its deployment.
type state struct {
	// Ports are those of the last start. They are taken again if they are free,
	// so that addresses which somebody noted stay right.
	Ports struct {
		Postgres int `json:"postgres"`
		S3       int `json:"s3"`
		Bitcoin  int `json:"bitcoin"`
		P2P      int `json:"p2p"`
		// Calendar is in the proofs that it has begun.
		Calendar int `json:"calendar"`
		Metrics  int `json:"metrics"`
	} `json:"ports"`
	Database string `json:"database"` // its name on the server
	// FirstBlock is the block with the first coin of the log's chain of anchors.
	// It is written when the log has been created: absent means that it hasn't.
	FirstBlock *block `json:"first_block,omitempty"`
}

type block struct {
	Height int64  `json:"height"`
	Hash   string `json:"hash"`
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

// loadState reads what the last start has kept; nothing in a new folder.
func loadState(dir string) (state, error) {
	var s state
	text, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("parse %s: %w", statePath(dir), err)
	}
	return s, nil
}

func (s state) save(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replace(statePath(dir), append(text, '\n'))
}

// replace writes a private file whole.
// Crash here: the former file stays.
func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(path+".new", path)
}

// usualCalendar and usualMetrics are the ports on the first start, if they are free.
const (
	usualCalendar = 8421
	usualMetrics  = 8422
)

// firstFree is one that nobody listens on: that of the last start if possible,
// else the usual one, else any.
func firstFree(former, usual int) (int, error) {
	for _, port := range []int{former, usual} {
		if port != 0 && free(port) != 0 {
			return port, nil
		}
	}
	return process.FreePort()
}

// free is the port if nobody listens on it, else 0, which stands for any.
func free(port int) int {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0
	}
	l.Close()
	return port
}
