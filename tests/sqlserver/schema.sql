-- Tables, views, roles and a procedure shaped like those of SSISDB, as far as the exporter meets them: names, types and
-- the filter by rows as in its own scripts. The real thing has CLR code behind the procedure and the function.
CREATE DATABASE SSISDB;
GO
USE SSISDB;
GO
CREATE SCHEMA catalog;
GO
CREATE SCHEMA internal;
GO
CREATE ROLE ssis_admin;
CREATE ROLE ssis_logreader;
GO
CREATE TABLE internal.operations (
    operation_id bigint IDENTITY(1, 1) PRIMARY KEY CLUSTERED,
    operation_type smallint NOT NULL,
    created_time datetimeoffset(7) NULL,
    object_type smallint NULL,
    object_id bigint NULL,
    status int NOT NULL,
    start_time datetimeoffset(7) NULL,
    end_time datetimeoffset(7) NULL,
    caller_sid varbinary(85) NULL,
    caller_name nvarchar(128) NULL,
    process_id int NULL,
    stopped_by_sid varbinary(85) NULL,
    stopped_by_name nvarchar(128) NULL,
    operation_guid uniqueidentifier NULL,
    server_name nvarchar(128) NULL,
    machine_name nvarchar(128) NULL,
    worker_agent_id uniqueidentifier NULL,
    executed_count int NULL
);
CREATE TABLE internal.executions (
    execution_id bigint PRIMARY KEY CLUSTERED REFERENCES internal.operations (operation_id) ON DELETE CASCADE,
    folder_name sysname NOT NULL,
    project_name sysname NOT NULL,
    package_name nvarchar(260) NOT NULL,
    reference_id bigint NULL,
    reference_type char(1) NULL,
    environment_folder_name nvarchar(128) NULL,
    environment_name nvarchar(128) NULL,
    project_lsn bigint NULL,
    executed_as_sid varbinary(85) NULL,
    executed_as_name nvarchar(128) NULL,
    use32bitruntime bit NOT NULL DEFAULT 0
);
CREATE TABLE internal.operation_os_sys_info (
    info_id bigint IDENTITY(1, 1) PRIMARY KEY CLUSTERED,
    operation_id bigint NOT NULL REFERENCES internal.operations (operation_id) ON DELETE CASCADE,
    total_physical_memory_kb bigint NOT NULL,
    available_physical_memory_kb bigint NULL,
    total_page_file_kb bigint NULL,
    available_page_file_kb bigint NOT NULL,
    cpu_count int NOT NULL
);
CREATE NONCLUSTERED INDEX by_operation ON internal.operation_os_sys_info (operation_id);
CREATE TABLE internal.operation_permissions (
    id bigint IDENTITY(1, 1) PRIMARY KEY CLUSTERED,
    sid varbinary(85) NOT NULL,
    object_id bigint NOT NULL REFERENCES internal.operations (operation_id) ON DELETE CASCADE,
    permission_type smallint NOT NULL,
    CONSTRAINT one_of_each UNIQUE (object_id, permission_type, sid)
);
CREATE TABLE internal.event_messages (
    event_message_id bigint IDENTITY(1, 1) PRIMARY KEY CLUSTERED,
    operation_id bigint NOT NULL,
    message_time datetimeoffset(7) NULL,
    message_type smallint NULL,
    message_source_name nvarchar(4000) NULL,
    message nvarchar(max) NULL
);
CREATE TABLE internal.event_messages_scaleout (
    event_message_guid uniqueidentifier NOT NULL PRIMARY KEY NONCLUSTERED DEFAULT NEWID(),
    operation_id bigint NOT NULL,
    message_time datetimeoffset(7) NULL,
    message_type smallint NULL,
    message_source_name nvarchar(4000) NULL,
    message nvarchar(max) NULL
);
GO
CREATE VIEW internal.current_user_readable_operations AS
SELECT object_id AS id FROM internal.operation_permissions WHERE permission_type = 1 AND sid = SUSER_SID();
GO
CREATE VIEW catalog.executions AS
SELECT execs.execution_id, execs.folder_name, execs.project_name, execs.package_name, execs.reference_id,
    execs.reference_type, execs.environment_folder_name, execs.environment_name, execs.project_lsn,
    execs.executed_as_sid, execs.executed_as_name, execs.use32bitruntime, opers.operation_type, opers.created_time,
    opers.object_type, opers.object_id, opers.status, opers.start_time, opers.end_time, opers.caller_sid,
    opers.caller_name, opers.process_id, opers.stopped_by_sid, opers.stopped_by_name, opers.operation_guid AS dump_id,
    opers.server_name, opers.machine_name, opers.worker_agent_id, infos.total_physical_memory_kb,
    infos.available_physical_memory_kb, infos.total_page_file_kb, infos.available_page_file_kb, infos.cpu_count,
    opers.executed_count
FROM internal.executions AS execs
INNER JOIN internal.operations AS opers ON execs.execution_id = opers.operation_id
LEFT JOIN internal.operation_os_sys_info AS infos ON infos.operation_id = execs.execution_id
WHERE opers.operation_id IN (SELECT id FROM internal.current_user_readable_operations)
    OR IS_MEMBER('ssis_admin') = 1 OR IS_SRVROLEMEMBER('sysadmin') = 1 OR IS_MEMBER('ssis_logreader') = 1;
GO
CREATE VIEW catalog.event_messages AS
SELECT event_message_id, operation_id, message_time, message_type, message_source_name, message
FROM internal.event_messages
UNION ALL
SELECT NULL, operation_id, message_time, message_type, message_source_name, message
FROM internal.event_messages_scaleout;
GO
CREATE FUNCTION catalog.dm_execution_performance_counters (@execution_id bigint)
RETURNS @counters TABLE (execution_id bigint, counter_name nvarchar(128), counter_value bigint)
AS
BEGIN
    INSERT INTO @counters SELECT @execution_id, N'Rows read', 5;
    RETURN;
END;
GO
CREATE PROCEDURE catalog.stop_operation @operation_id bigint
AS
BEGIN
    SET NOCOUNT ON;
    IF EXISTS (SELECT name FROM sys.server_principals WHERE sid = SUSER_SID() AND type = 'S')
    BEGIN
        RAISERROR(27123, 16, 1) WITH NOWAIT;
        RETURN 1;
    END;
    UPDATE internal.operations SET status = 8 WHERE operation_id = @operation_id AND status = 2;
    RETURN 0;
END;
GO
GRANT SELECT ON catalog.executions TO public;
GRANT SELECT ON catalog.event_messages TO public;
GRANT SELECT ON catalog.dm_execution_performance_counters TO public;
GRANT EXECUTE ON catalog.stop_operation TO public;
GO
CREATE LOGIN exporter WITH PASSWORD = 'Exp0rter-secret', CHECK_POLICY = OFF;
CREATE USER exporter FOR LOGIN exporter;
ALTER ROLE ssis_logreader ADD MEMBER exporter;
GO
