package dea

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/clusterworks/deploy/jobs/confine"
)

// ownLog are the names of the files below logs/ that the platform writes; the app may
// have made others.
var ownLog = regexp.MustCompile(`^(stdout|stderr|err|staging)\.log(\.times)?(\.[0-9]{1,2})?$`)

// trim removes an instance's records, and all of its folder but its logs. Nothing of it
// runs. An app may have put other files in the logs' place: they go, and so does a log
// of more than largest bytes.
func trim(records, folder string, largest int64) error {
	failed := os.RemoveAll(records)
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return failed
	}
	if err != nil {
		return errors.Join(failed, err)
	}
	defer root.Close()
	for _, name := range names(root, ".") {
		if info, err := root.Lstat(name); name == "logs" && err == nil && info.IsDir() {
			continue
		}
		failed = errors.Join(failed, confine.RemoveAll(filepath.Join(folder, name)))
	}
	for _, name := range names(root, "logs") {
		info, err := root.Lstat("logs/" + name)
		if err == nil && info.Mode().IsRegular() && info.Size() <= largest && ownLog.MatchString(name) {
			continue
		}
		failed = errors.Join(failed, confine.RemoveAll(filepath.Join(folder, "logs", name)))
	}
	return failed
}

// names returns what is in a folder; of one that cannot be read, nothing.
func names(root *os.Root, folder string) []string {
	entries, err := fs.ReadDir(root.FS(), folder)
	if err != nil {
		return nil
	}
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
