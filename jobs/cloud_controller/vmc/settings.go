package vmc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// settings describe what is remembered between commands. They hold tokens, so the file
// is the user's alone.
type settings struct {
	Target string            `json:"target"` // URL
	Tokens map[string]string `json:"tokens"` // by target
	// Logins at user components, by target: they renew Tokens.
	Logins map[string]loginAt `json:"logins,omitempty"`
}

// settingsFile is vmc/settings.json in the user's folder for configuration
// (XDG_CONFIG_HOME, else ~/.config).
func settingsFile() (string, error) {
	folder, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the folder of the settings: %w; set HOME, or say all by VMC_TARGET and VMC_TOKEN", err)
	}
	return filepath.Join(folder, "vmc", "settings.json"), nil
}

func loadSettings() (settings, error) {
	s := settings{Tokens: map[string]string{}, Logins: map[string]loginAt{}}
	file, err := settingsFile()
	if err != nil {
		return s, err
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("cannot read the settings (%s; delete the file to start again): %w", file, err)
	}
	if s.Tokens == nil {
		s.Tokens = map[string]string{}
	}
	if s.Logins == nil {
		s.Logins = map[string]loginAt{}
	}
	return s, nil
}

// changeSettings reads, changes and writes them.
func changeSettings(change func(*settings)) error {
	s, err := loadSettings()
	if err != nil {
		return err
	}
	change(&s)
	file, err := settingsFile()
	if err != nil {
		return err
	}
	if s.Target == "" && len(s.Tokens) == 0 {
		// What is empty leaves no trace; a folder with something else in it stays.
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the settings: %w", err)
		}
		_ = os.Remove(filepath.Join(filepath.Dir(file), lockName))
		_ = os.Remove(filepath.Dir(file))
		return nil
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = replaceFile(file, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot save the settings: %w", err)
	}
	return nil
}

// replaceFile writes a file that is the user's alone, whole or not at all. The
// library that the servers use for this is not for Windows.
func replaceFile(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
