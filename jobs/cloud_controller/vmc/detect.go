package vmc

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// preference is the order in which frameworks are tried, the most particular
// first; others come before these, by name, since someone has added them.
var preference = []string{"grails", "lift", "spring", "java_web", "rails3", "rack", "sinatra", "django", "wsgi", "php", "static", "node"}

// detect finds out what kind of app there is, by the rules that the cloud tells of
// its frameworks. "": none fits.
func detect(source string, frameworks map[string]client.Framework) (string, error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", err
	}
	var files fs.FS = onlyFile(source)
	if info.IsDir() {
		files = os.DirFS(source)
	}
	declared, err := declares(files)
	if err != nil {
		return "", err
	}
	if _, offered := frameworks[declared]; offered {
		return declared, nil
	}
	names := slices.Sorted(maps.Keys(frameworks))
	rank := func(name string) int { return slices.Index(preference, name) }
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	for _, name := range names {
		fits, err := fitsFramework(files, frameworks[name])
		if err != nil {
			return "", err
		}
		if fits {
			return name, nil
		}
	}
	if _, offered := frameworks["binary"]; offered {
		programs, err := programsIn(files)
		if err != nil {
			return "", err
		}
		if programs == 1 {
			return "binary", nil
		}
	}
	return "", nil
}

// declares returns the framework of an app whose files say how it runs; a guess by
// names is for the others. "": none does.
func declares(files fs.FS) (string, error) {
	if _, err := fs.Stat(files, "config.ru"); err == nil {
		return "rack", nil
	}
	text, err := fs.ReadFile(files, "package.json")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var about struct {
		Scripts map[string]string `json:"scripts"`
	}
	// One that is broken is for npm to complain of, when the app is staged.
	if json.Unmarshal(text, &about) == nil && about.Scripts["start"] != "" {
		return "node", nil
	}
	return "", nil
}

// lookedFor lists the files by which frameworks are found out.
func lookedFor(frameworks map[string]client.Framework) string {
	found := map[string]bool{}
	for _, framework := range frameworks {
		for _, rules := range framework.Detection {
			for glob, rule := range rules {
				if rule != false {
					found[glob] = true
				}
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), ", ")
}

// onlyFile is a folder with one file in it.
type onlyFile string

func (f onlyFile) Open(name string) (fs.File, error) {
	if name == filepath.Base(string(f)) {
		return os.Open(string(f))
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Glob is fs.GlobFS.
func (f onlyFile) Glob(pattern string) ([]string, error) {
	name := filepath.Base(string(f))
	if ok, err := filepath.Match(pattern, name); !ok {
		return nil, err
	}
	return []string{name}, nil
}

// ReadDir is fs.ReadDirFS.
func (f onlyFile) ReadDir(string) ([]fs.DirEntry, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, err
	}
	return []fs.DirEntry{fs.FileInfoToDirEntry(info)}, nil
}

// fitsFramework says whether one rule speaks for the framework and none against
// it: a pattern of names with true (there is such a file), false (there is none)
// or an expression that a file's text matches.
func fitsFramework(files fs.FS, framework client.Framework) (bool, error) {
	fits := false
	for _, rules := range framework.Detection {
		for _, glob := range slices.Sorted(maps.Keys(rules)) {
			found, err := fs.Glob(files, glob)
			if err != nil {
				return false, fmt.Errorf("the framework %s has a pattern %q: %w", framework.Name, glob, err)
			}
			switch rule := rules[glob].(type) {
			case bool:
				if !rule && len(found) > 0 {
					return false, nil
				}
				fits = fits || rule && len(found) > 0
			case string:
				matches, err := anyMatches(files, found, rule)
				if err != nil {
					return false, fmt.Errorf("the framework %s: %w", framework.Name, err)
				}
				fits = fits || matches
			}
		}
	}
	return fits, nil
}

// looked is how much of a file is searched.
const looked = 1 << 20

func anyMatches(files fs.FS, names []string, expression string) (bool, error) {
	if len(names) == 0 {
		return false, nil
	}
	pattern, err := regexp.Compile("(?m)" + expression)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		f, err := files.Open(name)
		if err != nil {
			return false, err
		}
		text, err := io.ReadAll(io.LimitReader(f, looked))
		f.Close()
		if err == nil && pattern.Match(text) { // what cannot be read is a folder
			return true, nil
		}
	}
	return false, nil
}

// programsIn counts the programs in the root.
func programsIn(files fs.FS) (int, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return 0, err
	}
	programs := 0
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		f, err := files.Open(entry.Name())
		if err != nil {
			return 0, err
		}
		if at, ok := f.(io.ReaderAt); ok {
			if _, err := elf.NewFile(at); err == nil {
				programs++
			}
		}
		f.Close()
	}
	return programs, nil
}
