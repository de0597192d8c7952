package api

import (
	"errors"
	"net/http"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// deleteUser removes an account with its apps and services.
func (s *Server) deleteUser(w http.ResponseWriter, r *http.Request, a model.Account) error {
	if !a.Admin {
		return model.ErrForbidden
	}
	u, err := s.Accounts.Named(r, a)
	if err != nil {
		return err
	}
	ctx, cancel := s.Frame.Detached(r)
	defer cancel()
	apps, err := s.Store.Apps(ctx, u.ID)
	if err != nil {
		return err
	}
	for _, app := range apps {
		if err := s.removeApp(ctx, app); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	services, err := s.Store.ServiceInstances(ctx, u.ID)
	if err != nil {
		return err
	}
	for _, i := range services {
		if err := s.Services.Unprovision(ctx, i); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if err := s.Accounts.Forget(ctx, u.Email); err != nil {
		return err
	}
	if err := s.Store.DeleteUser(ctx, u.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	s.Log.Info("user deleted", "email", u.Email, "by", a.Email)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
