package dev

import (
	"io"
	"os"
)

// follower copies what is appended to a file.
type follower struct {
	path string
	at   int64 // up to where it has been copied
	to   io.Writer
}

// copy copies what is new. A file that can't be read now is looked at again at
// the next call.
func (f *follower) copy() {
	file, err := os.Open(f.path)
	if err != nil {
		return
	}
	defer file.Close()
	if _, err := file.Seek(f.at, io.SeekStart); err != nil {
		return
	}
	n, _ := io.Copy(f.to, file)
	f.at += n
}
