package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Finding says what is wrong with a file of the state folder.
type Finding struct {
	File string // below the folder
	Err  error
	// Grave: nothing can be done without the file, or others can read secrets in it.
	Grave bool
	Fix   string // "": the error says it
}

// Examine reads every file of the folder that the deployer has written, the
// engine's state apart, and returns what is wrong, and how many files it has read.
func Examine(s Store) (found []Finding, read int) {
	add := func(grave bool, file, fix string, err error) {
		found = append(found, Finding{File: file, Err: err, Grave: grave, Fix: fix})
	}
	st, _, err := s.Load()
	switch {
	case err != nil:
		fix := "deploy state repair MANIFEST"
		if errors.As(err, new(versionError)) {
			fix = "" // nothing is damaged
		}
		add(true, "state.json", fix, err)
	case st == nil:
		return nil, 0
	}
	read = 2
	found = append(found, examineModes(s)...)
	n, wrong := examineJournal(s)
	read += n
	if wrong != nil {
		add(false, "journal.jsonl", "", wrong)
	}
	if data, err := os.ReadFile(filepath.Join(s.Terraform(), "applied.json")); err == nil {
		read++
		if !json.Valid(data) {
			add(false, "terraform/applied.json", "deploy apply MANIFEST writes it anew", errors.New("it is cut off or not JSON"))
		}
	}
	if st != nil {
		digests := map[string]bool{}
		for _, r := range st.Revisions {
			read++
			if _, err := s.Sources(r.Number); err != nil {
				add(false, fmt.Sprintf("revisions/%d.tar.gz", r.Number), "there is no way back to this revision; the next ones are kept again", err)
			}
			for _, digest := range r.Packages {
				digests[digest] = true
			}
		}
		for _, digest := range sorted(digests) {
			read++
			if err := examinePackage(s, digest); err != nil {
				add(false, "packages/"+digest+".tar.gz", "deploy state repair MANIFEST sets it aside; the next apply keeps it again if it is still built", err)
			}
		}
	}
	copies, err := Copies(s)
	if err != nil {
		add(false, "copies", "", err)
	}
	for _, c := range copies {
		read++
		if _, _, err := c.Files(s); err != nil {
			add(false, "copies/"+filepath.Base(c.Path), "remove it; each change makes a new one", err)
		}
	}
	return found, read
}

// examineModes looks for files that others can read.
func examineModes(s Store) []Finding {
	var found []Finding
	for _, dir := range []string{".", "terraform", "copies", "revisions"} {
		entries, err := os.ReadDir(filepath.Join(s.Dir, dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			found = append(found, Finding{File: dir, Err: err, Grave: true})
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
				continue
			}
			path := filepath.Join(s.Dir, dir, e.Name())
			found = append(found, Finding{
				Grave: e.Name() == "secrets.json" || dir == "copies", // it holds every secret
				File:  filepath.Join(dir, e.Name()), Err: fmt.Errorf("others may read it (mode %04o)", info.Mode().Perm()), Fix: "chmod 600 " + path,
			})
		}
	}
	return found
}

// examineJournal returns 1 if there is a journal, and what is wrong with it.
func examineJournal(s Store) (read int, wrong error) {
	data, err := os.ReadFile(s.journalFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 1, err
	}
	bad := 0
	for line := range bytes.Lines(data) {
		if len(bytes.TrimSpace(line)) > 0 && !json.Valid(line) {
			bad++
		}
	}
	if bad > 0 {
		return 1, fmt.Errorf("%d of its lines cannot be read: they are left out of the history, which nothing depends on", bad)
	}
	return 1, nil
}

// examinePackage compares a kept package with its name, which is its digest.
func examinePackage(s Store, digest string) error {
	f, err := os.Open(filepath.Join(s.Packages(), digest+".tar.gz"))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if now := hex.EncodeToString(h.Sum(nil)); now != digest {
		return fmt.Errorf("its content has another digest (%.12s), so it is damaged", now)
	}
	return nil
}

func sorted(set map[string]bool) []string {
	var out []string
	for name := range set {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
